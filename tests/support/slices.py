"""Models of odd shapes, and parts of their tensors: what loads with `slices` are compared with."""

from __future__ import annotations

import random
from typing import Any

import torch

DTYPES = [torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.bool, torch.float8_e4m3fn]
Index = Any


def random_tensor(shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape[:-1], shape[-1] * size), generator=generator)
    raw = raw.to(torch.uint8)
    return raw % 2 == 1 if dtype == torch.bool else raw.view(dtype)


def random_model(seed: int, tensors: int = 20, largest: int = 1 << 20) -> dict[str, torch.Tensor]:
    """Tensors of up to `largest` elements: t00, t01, ..., and one without dimensions."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    model = {"scalar": torch.tensor(3.5)}
    for number in range(tensors):
        rank = chance.randint(1, 4)
        most = max(1, int(chance.choice([50, 5000, largest]) ** (1 / rank)))
        shape = [chance.choice([1, 2, 3, chance.randint(0, most), most]) for _ in range(rank)]
        model[f"t{number:02}"] = random_tensor(shape, chance.choice(DTYPES), generator)
    return model


def random_index(chance: random.Random, shape: Any) -> Index:
    """An index of the leading dimensions, which may reach beyond the tensor."""

    def bound(size: int) -> int | None:
        return chance.choice([None, chance.randint(-size - 2, size + 2), size // 2, size // 4])

    parts: list[Any] = [
        slice(bound(size), bound(size), chance.choice([None, 1]))
        for size in shape[: chance.randint(0, len(shape))]
    ]
    if len(parts) == 1 and chance.random() < 0.5:
        return parts[0]
    if chance.random() < 0.2:
        parts.insert(chance.randint(0, len(parts)), ...)
        return tuple(parts)
    return tuple(parts)


def random_slices(model: dict[str, torch.Tensor], seed: int) -> dict[str, Index]:
    """An index for most tensors; of some that they are not wanted."""
    chance = random.Random(seed)
    found: dict[str, Index] = {}
    for name, tensor in model.items():
        choice = chance.random()
        if choice < 0.1:
            found[name] = None
        elif choice < 0.9:
            found[name] = random_index(chance, tensor.shape)
    return found


def sliced(model: dict[str, torch.Tensor], slices: dict[str, Index]) -> dict[str, torch.Tensor]:
    """What a load of `model` with `slices` has to give."""
    return {
        name: tensor[slices.get(name, ...)]
        for name, tensor in model.items()
        if slices.get(name, ...) is not None
    }


def row_slices(model: dict[str, torch.Tensor], rank: int, ranks: int) -> dict[str, Index]:
    """The share of one of `ranks`: rows of every other tensor, columns of the others."""
    found: dict[str, Index] = {}
    for number, (name, tensor) in enumerate(model.items()):
        dimension = number % 2 if tensor.dim() > 1 else 0
        if tensor.dim() == 0:
            continue
        size = tensor.shape[dimension]
        part = slice(size * rank // ranks, size * (rank + 1) // ranks)
        found[name] = (slice(None),) * dimension + (part,)
    return found
