"""The memory of a node, divided among its ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runai_model_streamer._distributed.probe import cached_fraction
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._native_api import MemoryLimit


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> DistSettings:
    for name, value in values.items():
        monkeypatch.setenv(f"RUNAI_STREAMER_{name}", value)
    return DistSettings.read()


def test_the_limit_is_divided_among_the_ranks_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, MEMORY_LIMIT="1000").memory_share(4) == MemoryLimit.bytes(250)


def test_other_processes_may_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, MEMORY_LIMIT="1000", PROCESS_GROUP_SIZE="10")
    assert found.memory_share(4) == MemoryLimit.bytes(100)


@pytest.mark.parametrize("limit", [-1, 0])
def test_no_limit_and_the_least_are_not_divided(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    assert settings(monkeypatch, MEMORY_LIMIT=str(limit)).memory_share(
        4
    ) == MemoryLimit.from_setting(limit)


def test_both_staging_buffers_fit_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, MEMORY_LIMIT="40000000")
    assert 2 * found.round_bytes(4, 4, on_device=False) <= found.memory_share(4).initial


def test_a_rounds_bytes_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, DIST_BUFFER_MIN_BYTESIZE="5000000")
    assert found.round_bytes(4, 4, on_device=True) == 5_000_000


def test_the_page_cache_is_asked_and_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 << 20))
    assert cached_fraction([str(path)]) == 1
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for _ in range(3):
        assert cached_fraction([str(path)]) < 0.1
    assert cached_fraction([str(path), str(tmp_path / "none")]) == 0
    assert cached_fraction(["s3://bucket/key"]) == 0
