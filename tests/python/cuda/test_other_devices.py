"""Devices that only PyTorch can copy to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import SafetensorsStreamer
from tests.python.cuda.loads import expected
from tests.support.models import check_same


def test_tensors_of_the_meta_device_have_dtype_and_shape(checkpoint: list[Path]) -> None:
    wanted = expected(checkpoint)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="meta")
        tensors = dict(streamer.get_tensors())
        assert streamer.stats().device == "meta"
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert tensor.device.type == "meta"
        assert tensor.dtype == wanted[name].dtype
        assert tensor.shape == wanted[name].shape
        assert tensor.is_contiguous()


def test_into_of_a_device_that_only_pytorch_can_copy_to(checkpoint: list[Path]) -> None:
    target = torch.empty(700, 1024, device="meta")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(
            [str(path) for path in checkpoint], device="meta", into={"0.embed": target}
        )
        tensors = dict(streamer.get_tensors())
    assert tensors["0.embed"] is target


def test_a_module_without_memory_is_accepted(tmp_path: Path) -> None:
    """Tensors of "meta" have no address to tell them apart by."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4, bias=False))
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    target = module.to("meta")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="meta", into=target)
        tensors = dict(streamer.get_tensors())
    assert tensors.keys() == {"0.weight", "0.bias", "1.weight"}
    for name, parameter in target.named_parameters():
        assert tensors[name] is parameter


def test_a_moved_placement_moves_the_bytes(
    checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path with a device whose bytes can be looked at."""
    from runai_model_streamer._device import registry
    from runai_model_streamer._device.moved import MovedSink

    monkeypatch.setattr(
        registry,
        "sink_for",
        lambda _: MovedSink(torch.device("cpu"), "elsewhere"),
    )
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint])
        assert streamer.stats().device == "elsewhere"
        check_same(dict(streamer.get_tensors()), expected(checkpoint))
