"""Distributed tensors of torch, which hold a part of a tensor."""

from __future__ import annotations

import sys

import torch


def shard_like(own: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as a DTensor of the mesh and the placements of `own`, without communication.

    `tensor` itself if `own` is no DTensor, or one with placements other than Shard and Replicate.
    """
    # Whoever has a DTensor has imported its module.
    module = sys.modules.get("torch.distributed.tensor") or sys.modules.get(
        "torch.distributed._tensor"
    )
    if module is None or not isinstance(own, module.DTensor):
        return tensor
    mesh = own.device_mesh
    place = mesh.get_coordinate()
    kinds = (module.Shard, module.Replicate)
    if place is None or any(type(placement) not in kinds for placement in own.placements):
        return tensor
    part = tensor
    for dimension, placement in enumerate(own.placements):
        if isinstance(placement, module.Shard):
            pieces = part.chunk(mesh.size(dimension), placement.dim)
            index = place[dimension]
            part = pieces[index] if index < len(pieces) else part.narrow(placement.dim, 0, 0)
    if part is not tensor:
        part = part.clone(memory_format=torch.contiguous_format)  # lets go of the rest
    sharded: torch.Tensor = module.DTensor.from_local(
        part,
        mesh,
        own.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return sharded
