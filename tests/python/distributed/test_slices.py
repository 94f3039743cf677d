"""Ranks that want different parts of the same tensors: each byte is read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from tests.support import slices
from tests.support.cuda_standin import library

from .cluster import Cluster

Make = Callable[..., Cluster]
SEEDS = [1, 2]
SHARED = "shared memory"


def write_files(directory: Path) -> list[str]:
    paths = []
    for seed in SEEDS:
        path = directory / f"{seed}.safetensors"
        model = slices.random_model(seed)
        safetensors.torch.save_file({f"{seed}.{n}": t for n, t in model.items()}, path)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(
    ("ranks", "way", "into"),
    [(2, "shared memory", False), (4, "shared memory", True), (3, "gloo", False)],
)
def test_ranks_get_their_own_parts(
    cluster: Make, tmp_path: Path, ranks: int, way: str, into: bool
) -> None:
    files = write_files(tmp_path)
    for random in (False, True):
        found = cluster(ranks).load(
            files, program="slices", seeds=SEEDS, random=random, into=into, way=way
        )
        assert len(found) == ranks
        if random:
            continue
        # Together the shares are everything, which leaves the storage once.
        total = sum(
            tensor.nbytes for seed in SEEDS for tensor in slices.random_model(seed).values()
        )
        assert sum(result["read"] for result in found.values()) == total


def test_parts_reach_a_device(cluster: Make, tmp_path: Path) -> None:
    files = write_files(tmp_path)
    cluster(2).load(
        files,
        program="slices",
        seeds=SEEDS,
        random=True,
        into=False,
        driver=str(library()),
        device="cuda:0",
    )
