"""Ranks whose tensors end on GPUs, on the stand-in driver: staging memory of the device, and pinned
slots. What moves pieces between ranks is gloo, since there is no GPU for NCCL.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import models
from tests.support.cuda_standin import library

from .cluster import Cluster


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_byte_goes_to_one_device_and_from_there_to_the_others(
    cluster: Callable[..., Cluster], tmp_path: Path, ranks: int
) -> None:
    files, expected = models.mixture(tmp_path)
    driver = str(library())
    found = cluster(ranks).run("on_device", files, driver=driver, device="cuda:0")
    assert len(found) == ranks
    for result in found.values():
        assert "error" not in result, result
        assert result["notes"]["distributed_way"] == "gloo"
        assert result["tensors"] == [list(pair) for pair in expected]
        assert result["storages"] == result["owned"]
        assert result["violations"] == 0, result["violation"]
        assert result["copied"] > 0
        assert result["pinned"] == 0
    assert sum(result["copied"] for result in found.values()) == found[0]["bytes"]


@pytest.mark.parametrize(("mode", "cold"), [("auto", None), ("auto", 1), ("1", None)])
def test_auto_reads_alone_what_every_rank_has_in_its_page_cache(
    cluster: Callable[..., Cluster], tmp_path: Path, mode: str, cold: int | None
) -> None:
    files, expected = models.mixture(tmp_path)
    env = {"RUNAI_STREAMER_DIST": mode}
    job = {"program": "automatic", "driver": str(library()), "device": "cuda:0", "cold": cold}
    for result in cluster(2, env).load(files, **job).values():
        assert result["tensors"] == [list(pair) for pair in expected]
        alone = mode == "auto" and cold is None
        text = "the files are in the page cache of every rank" if alone else "2 ranks, "
        assert result["notes"]["distributed"].startswith(text)


def test_a_full_device_is_an_error_that_says_so(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    files, _ = models.mixture(tmp_path)
    job = {"driver": str(library()), "device": "cuda:0", "device_bytes": 1 << 20}
    found = cluster(2).run("on_device", files, **job)
    errors = [result["error"] for result in found.values()]
    assert "StreamerOutOfMemoryError" in errors, found
    texts = [result["text"] for result in found.values()]
    assert all("cuda:0 has no memory for" in text for text in texts), texts
