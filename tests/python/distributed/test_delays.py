"""No wrong byte and no lost tensor, whichever rank is late, and wherever, and however its consumer
uses iterators.

DELAY_SEEDS says how many loads by each way of sharing (make test-delays), DELAY_FIRST which seed is
the first one, DELAY_RANKS how many ranks. The ways have different seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import models

from .cluster import Cluster

SEEDS = int(os.environ.get("DELAY_SEEDS", "500"))
FIRST = int(os.environ.get("DELAY_FIRST", "0"))
RANKS = int(os.environ.get("DELAY_RANKS", "3"))
WAYS = ["shared memory", "gloo"]
# Most of a load of so few bytes is the start of threads.
FEW_THREADS = {"RUNAI_STREAMER_CONCURRENCY": "2"}


@pytest.mark.timeout(300 + 2 * SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_ranks_that_are_late_anywhere_get_every_byte(
    cluster: Callable[..., Cluster], tmp_path: Path, way: str
) -> None:
    files = models.uneven(tmp_path)
    ranks = cluster(RANKS, FEW_THREADS, seconds=280 + 2 * SEEDS)
    first = FIRST + WAYS.index(way) * SEEDS
    job = {"program": "delayed_loads", "way": way, "seeds": [first, first + SEEDS]}
    found = ranks.load(files, **job)
    assert not [result for result in found.values() if result["wrong"]]
    for result in found.values():
        assert set(result["ways"]) == {way, "nothing wanted", "left early"}
        assert sum(result["ways"].values()) == SEEDS
