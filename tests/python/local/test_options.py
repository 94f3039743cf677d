"""What one streamer uses instead of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError, StreamStats
from tests.support.models import save_floats


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_floats(tmp_path / "a.safetensors", [500_000] * 4)
    return tmp_path / "a.safetensors"


def stats_of(streamer: SafetensorsStreamer, path: Path) -> StreamStats:
    with streamer:
        streamer.stream_files([path])
        for _ in streamer.get_tensors():
            pass
    return streamer.stats()


def test_they_count_for_one_streamer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "5000000")
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "2")
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    other = SafetensorsStreamer()
    one = SafetensorsStreamer(memory_limit=7_000_000, concurrency=3, fs_strategy="buffered")
    for _ in range(2):
        stats = stats_of(one, path)
        assert (stats.memory_limit, stats.concurrency) == (7_000_000, 3)
        assert set(stats.bytes_by_strategy) == {"buffered"}
        stats = stats_of(other, path)
        assert (stats.memory_limit, stats.concurrency) == (5_000_000, 2)
        assert set(stats.bytes_by_strategy) == {"mapped"}


def test_options_apply_behind_open_files(path: Path) -> None:
    with SafetensorsStreamer(memory_limit=7_000_000) as streamer:
        streamer.open_files([path])
        assert streamer.get_slice("t0000")[:1].numel() == 1
        streamer.stream_files([path])
        streamer.wait()
    assert streamer.stats().memory_limit == 7_000_000


def test_deprecated_names_warn(path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="use RUNAI_STREAMER_ABORT_STRAGGLERS") as warned:
        streamer = SafetensorsStreamer(settings={"RUNAI_STREAMER_HEDGE": "0"})
    assert warned[0].filename == __file__
    stats = stats_of(streamer, path)
    with pytest.warns(DeprecationWarning, match=r"use StreamStats\.stragglers") as warned:
        assert stats.hedges == stats.stragglers == 0
    assert warned[0].filename == __file__


def test_reads_have_the_chosen_size(path: Path) -> None:
    few, many = (
        stats_of(SafetensorsStreamer(chunk_bytes=size, fs_strategy="buffered"), path).requests
        for size in (2 << 20, 64 << 10)
    )
    assert many > 4 * few


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_limit": 1}, "memory"),
        ({"memory_limit": -2}, "memory_limit"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 2000}, "concurrency"),
        ({"chunk_bytes": 1}, "chunk_bytes"),
        ({"fs_strategy": "fast"}, "fs_strategy|FS_STRATEGY|fast"),
        ({"memory_limit": "1"}, "memory_limit is a number"),
        ({"concurrency": True}, "concurrency is a number"),
        ({"fs_strategy": 1}, "fs_strategy is text"),
        ({"settings": {"RUNAI_STREAMER_CONCURRENCY": "1"}}, "the argument concurrency"),
        ({"settings": {"RUNAI_STREAMER_LOG_LEVEL": "info"}}, "not a setting of one streamer"),
        ({"settings": {"AWS_ENDPOINT": "x"}}, "'AWS_ENDPOINT' is not a setting"),
        ({"settings": {"AWS_REGION": 1}}, "AWS_REGION is text"),
    ],
)
def test_what_can_not_be_used(options, text, path: Path) -> None:
    with pytest.raises(StreamerError, match=text):
        stats_of(SafetensorsStreamer(**options), path)
