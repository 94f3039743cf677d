"""Distributed tensors receive exactly the shards that torch gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from .cluster import Cluster


def write(directory: Path) -> list[str]:
    """Uneven shards, and a rank that has none of a dimension."""
    shapes = [(5, 7, 3), (4, 8, 6), (1, 9, 2)]
    tensors = {f"t{i:02}": torch.randn(shapes[i % 3]) for i in range(21)}
    path = directory / "model" / "model.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file(tensors, path)
    return [str(path)]


def test_ranks_fill_their_shards(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster(4).load(write(tmp_path), program="dtensors")


@pytest.mark.parametrize("saved", [False, True])
def test_torch_reads_shards_of_a_checkpoint(
    cluster: Callable[..., Cluster], tmp_path: Path, saved: bool
) -> None:
    if saved and not hasattr(dcp, "HuggingFaceStorageWriter"):
        pytest.skip("this torch has no HuggingFaceStorageWriter")
    cluster(2).load(write(tmp_path), program="reshard", saved=saved)
