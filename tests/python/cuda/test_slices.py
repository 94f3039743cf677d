"""Parts of tensors in device memory: packed in the pinned slots, so that only they are copied."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.support import models, slices
from tests.support.cuda_standin import Standin

MODEL = slices.random_model(5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strategy", ["buffered", "direct"])
def test_only_the_parts_are_copied(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, seed: int
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", strategy)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(MODEL, path)
    chosen = slices.random_slices(MODEL, seed)
    expected = slices.sliced(MODEL, chosen)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, device="cuda:0", slices=chosen)
        models.check_same(expected, dict(streamer.get_tensors()))
    counts = standin.counts()
    assert counts.violations == 0, standin.violation()
    assert counts.copied_bytes == sum(tensor.nbytes for tensor in expected.values())


def test_only_wanted_bytes_are_copied(standin: Standin, tmp_path: Path) -> None:
    tensor = torch.randn(2048, 2048)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"t": tensor}, path)
    target = standin.allocate(0, tensor.nbytes // 4).view(torch.float32).view(2048, 512)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(
            path,
            device="cuda:0",
            slices={"t": (slice(None), slice(512, 1024))},
            into={"t": target},
        )
        streamer.wait()
    assert torch.equal(target, tensor[:, 512:1024])
    assert standin.counts().copied_bytes == tensor.nbytes // 4
