"""Ranks, and files for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster

# Rounds of a few tensors each, so that small files make many of them.
SMALL_ROUNDS = {"RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": str(256 << 10)}


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Cluster]:
    def make(ranks: int, env: dict[str, str] | None = None, **more: Any) -> Cluster:
        return Cluster(tmp_path, ranks, env={**SMALL_ROUNDS, **(env or {})}, **more)

    return make
