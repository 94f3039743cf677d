"""No wrong byte and no lost tensor, whichever rank is late, and wherever, and however its consumer
uses iterators.

DELAY_SEEDS says how many loads (make test-delays), DELAY_FIRST which seed is the first one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import models

from .cluster import Cluster

SEEDS = int(os.environ.get("DELAY_SEEDS", "60"))
FIRST = int(os.environ.get("DELAY_FIRST", "0"))


@pytest.mark.timeout(300 + 2 * SEEDS)
@pytest.mark.parametrize("way", ["shared memory", "gloo"])
def test_ranks_that_are_late_anywhere_get_every_byte(
    cluster: Callable[..., Cluster], tmp_path: Path, way: str
) -> None:
    files = models.uneven(tmp_path)
    ranks = cluster(4, seconds=280 + 2 * SEEDS)
    job = {"program": "delayed_loads", "way": way, "seeds": [FIRST, FIRST + SEEDS]}
    found = ranks.load(files, **job)
    assert not [result for result in found.values() if result["wrong"]]
    for result in found.values():
        assert set(result["ways"]) == {way, "nothing wanted", "left early"}
        assert sum(result["ways"].values()) == SEEDS
