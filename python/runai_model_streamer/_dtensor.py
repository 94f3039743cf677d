"""Distributed tensors of torch, of which each rank holds a part."""

from __future__ import annotations

import sys
from typing import Any

import torch

from runai_model_streamer._spans import Along


def _module() -> Any:
    # A caller that has a DTensor has imported its module. Before torch 2.5 the first of these has
    # other things.
    for name in ("torch.distributed.tensor", "torch.distributed._tensor"):
        if hasattr(module := sys.modules.get(name), "DTensor"):
            return module
    return None


def is_dtensor(tensor: object) -> bool:
    module = _module()
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this rank has of `tensor`: of a DTensor its local tensor."""
    if not is_dtensor(tensor):
        return tensor
    local: torch.Tensor = tensor._local_tensor  # type: ignore[attr-defined]
    return local


def local_part(tensor: torch.Tensor) -> list[Along] | None:
    """The part of each dimension of a DTensor that this rank holds.

    None if Along can't describe it: of a rank outside the mesh, of partial sums, of unknown
    placements.
    """
    module = _module()
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    place = mesh.get_coordinate()
    if place is None:
        return None
    by_dimension: dict[int, list[tuple[Any, int, int]]] = {}
    for number, placement in enumerate(placements):
        if isinstance(placement, module.Replicate):
            continue
        # The placement that FSDP2 gives to tensors that TP has sharded derives from Placement only.
        if not (isinstance(placement, module.Shard) or hasattr(placement, "split_factor")):
            return None
        dimension = placement.dim % max(1, tensor.dim())
        by_dimension.setdefault(dimension, []).append((placement, mesh.size(number), place[number]))
    part = [Along(0, size) for size in tensor.shape]
    for dimension, shards in by_dimension.items():
        held = torch.arange(tensor.shape[dimension], device="cpu")
        for placement, parts, index in shards:
            held = _shard_of(held, getattr(placement, "split_factor", 1), parts, index)
        found = _along(held)
        if found is None:
            return None
        part[dimension] = found
    if tuple(along.size for along in part) != tuple(local_of(tensor).shape):
        return None
    return part


def _shard_of(held: torch.Tensor, split_factor: int, parts: int, index: int) -> torch.Tensor:
    """The elements of `held` that shard `index` of `parts` has: as torch divides them, of each of
    `split_factor` divisions that it shards again."""
    pieces = held.chunk(split_factor) if split_factor > 1 else (held,)
    found = []
    for piece in pieces:
        chunks = piece.chunk(parts)
        found.append(chunks[index] if index < len(chunks) else piece[:0])
    return torch.cat(found) if len(found) > 1 else found[0]


def _along(held: torch.Tensor) -> Along | None:
    """`held`, which ascends, as runs of equal length at equal distances."""
    if held.numel() == 0:
        return Along(0, 0)
    breaks = (held.diff() != 1).nonzero().flatten() + 1
    starts = torch.cat([held[:1], held[breaks]])
    if starts.numel() == 1:
        return Along(int(starts[0]), held.numel())
    width, rest = divmod(held.numel(), starts.numel())
    steps = starts.diff()
    regular = torch.arange(starts.numel() - 1, device="cpu").add_(1).mul_(width)
    if rest or not bool((steps == steps[0]).all()) or not torch.equal(breaks, regular):
        return None
    return Along(int(starts[0]), width, starts.numel(), int(steps[0]))


def with_local(own: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """A DTensor of the mesh, the placements and the shape of `own`, of which this rank holds
    `local`. Without communication."""
    made: torch.Tensor = _module().DTensor.from_local(
        local,
        own.device_mesh,  # type: ignore[attr-defined]
        own.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=own.shape,
        stride=own.stride(),
    )
    return made
