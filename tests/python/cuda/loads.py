"""Loads to device memory, and what they have to give."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from runai_model_streamer import SafetensorsStreamer

MIB = 1 << 20


def expected(paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def load(paths: list[Path], **options: object) -> dict[str, torch.Tensor]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in paths], device="cuda:0", **options)
        return dict(streamer.get_tensors())


def check(tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor), name


def large_file(folder: Path, count: int, size: int) -> tuple[Path, dict[str, torch.Tensor]]:
    """`count` tensors of `size` bytes."""
    tensors = {
        f"t{index:03}": torch.full((size,), index % 251, dtype=torch.uint8)
        for index in range(count)
    }
    path = folder / "large.safetensors"
    save_file(tensors, path)
    return path, tensors
