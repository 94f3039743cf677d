from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runai_model_streamer import cuda

sys.path.insert(0, str(Path(__file__).parents[2] / "cuda_standin"))
from standin import Standin, StandinMemory, build


@pytest.fixture(scope="session")
def standin_library(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    return Standin(build(tmp_path_factory.mktemp("standin")))


@pytest.fixture
def standin(standin_library: Standin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """Two devices of 1 GiB, device 0 in use; afterwards nothing may be left of a load."""
    standin_library.reset()
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_LIBRARY", str(standin_library.path))
    monkeypatch.setattr(StandinMemory, "standin", standin_library, raising=False)
    monkeypatch.setattr(StandinMemory, "used", [], raising=False)
    monkeypatch.setattr(StandinMemory, "stream_handle", 0)
    monkeypatch.setattr(cuda, "memory_factory", StandinMemory)
    yield standin_library
    gc.collect()
    counts = standin_library.counts()
    assert counts.violations == 0, standin_library.violation()
    assert counts.pinned_bytes == 0
    assert counts.streams == 0
    assert counts.device_bytes == 0


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    """Two files: large tensors, small ones, empty ones, scalars, several dtypes, odd sizes."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    paths = []
    for index in range(2):
        tensors = {
            f"{index}.embed": torch.randn(700, 1024, generator=generator),
            f"{index}.empty": torch.empty(0, 7),
            f"{index}.scalar": torch.tensor(3.5 + index),
            f"{index}.half": torch.randn(333, 111, generator=generator).to(torch.bfloat16),
            f"{index}.flags": torch.rand(1001, generator=generator) > 0.5,
            f"{index}.wide": torch.randint(0, 99, (5, 3, 2), generator=generator),
        }
        for small in range(300):
            tensors[f"{index}.norm{small}"] = torch.randn(small * 3 + 1, generator=generator)
        path = tmp_path / f"model-{index}.safetensors"
        save_file(tensors, path)
        paths.append(path)
    return paths
