"""Files, loads of them to device memory, and what these have to give."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support import models


def write_checkpoint(
    directory: Path, embed: tuple[int, int], half: tuple[int, int], small: list[int]
) -> list[Path]:
    """Two files: large tensors, `small` ones, empty ones, scalars, several dtypes, odd sizes."""
    generator = torch.Generator().manual_seed(1)
    paths = []
    for index in range(2):
        tensors = {
            f"{index}.embed": torch.randn(*embed, generator=generator),
            f"{index}.empty": torch.empty(0, 7),
            f"{index}.scalar": torch.tensor(3.5 + index),
            f"{index}.half": torch.randn(*half, generator=generator).to(torch.bfloat16),
            f"{index}.flags": torch.rand(1001, generator=generator) > 0.5,
            f"{index}.wide": torch.randint(0, 99, (5, 3, 2), generator=generator),
        }
        for number, size in enumerate(small):
            tensors[f"{index}.norm{number}"] = torch.randn(size, generator=generator)
        path = directory / f"model-{index}.safetensors"
        save_file(tensors, path)
        paths.append(path)
    return paths


def expected(paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def load(paths: list[Path], device: str = "cuda:0", **options: object) -> dict[str, torch.Tensor]:
    return models.load(list(paths), device=device, **options)


def large_file(directory: Path, count: int, size: int) -> tuple[Path, dict[str, torch.Tensor]]:
    """`count` tensors of `size` bytes."""
    tensors = {
        f"t{index:03}": torch.full((size,), index % 251, dtype=torch.uint8)
        for index in range(count)
    }
    path = directory / "large.safetensors"
    save_file(tensors, path)
    return path, tensors
