"""Small models for tests, and loading them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.s3_utils import S3Credentials


def make_model(megabytes: int, tensors: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of uneven sizes."""
    generator = torch.Generator().manual_seed(seed)
    rest = megabytes << 20
    model = {}
    shares = random.Random(seed)
    for index in range(tensors):
        size = rest if index == tensors - 1 else shares.randint(1, 2 * rest // (tensors - index))
        rest -= min(size, rest)
        model[f"layer.{index}"] = torch.randint(
            0, 256, (max(size, 1),), dtype=torch.uint8, generator=generator
        )
    return model


def save(model: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save(model)


def check_same(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert sorted(expected) == sorted(found)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def load(path: str, credentials: S3Credentials | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], s3_credentials=credentials)
        return dict(streamer.get_tensors())


# What may be done with a file: each gets its path, and a local folder.
OPERATIONS: dict[str, Callable[[str, Path], object]] = {
    "load": lambda path, _folder: load(path),
    "list": lambda path, _folder: list_safetensors(path.rpartition("/")[0]),
    "pull": lambda path, folder: pull_files(path.rpartition("/")[0], str(folder)),
}
