"""What a streamer tells: reports, names, and files that are open already."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import (
    SafetensorsStreamer,
    list_safetensors,
)
from tests.support.models import load, same, save_floats


class TestReports:
    def test_metadata_is_merged_and_available_by_file(self, tmp_path: Path) -> None:
        for name, value in {"a": "1", "b": "2"}.items():
            safetensors.torch.save_file(
                {name: torch.zeros(1)},
                tmp_path / f"{name}.safetensors",
                {"both": value, name: "x"},
            )
        paths = list_safetensors(tmp_path)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            assert streamer.metadata() == {"both": "2", "a": "x", "b": "x"}
            assert streamer.metadata(paths[0]) == {"both": "1", "a": "x"}
            assert streamer.keys() == ["a", "b"]
            with pytest.raises(KeyError):
                streamer.metadata("other")

    def test_progress_grows_to_the_total(self, strategy, model) -> None:
        path, tensors = model
        calls: list[tuple[int, int]] = []
        load(path, progress=lambda done, total: calls.append((done, total)))
        total = sum(tensor.nbytes for tensor in tensors.values())
        assert calls[-1] == (total, total)
        assert {end for _, end in calls} == {total}
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)

    def test_statistics_stay_after_the_load(self, strategy, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            list(streamer.get_tensors())
            inside = streamer.stats()
        stats = streamer.stats()  # also afterwards
        total = sum(tensor.nbytes for tensor in tensors.values())
        assert stats.bytes == inside.bytes == total == streamer.total_size
        assert stats.bytes_by_source == {"file": total}
        assert sum(stats.bytes_by_strategy.values()) == total
        assert stats.requests > 0 and stats.retries == 0
        assert stats.seconds > 0 and stats.rate > 0
        assert stats.threads > 0 and stats.device == "cpu"
        assert stats.bound in ("storage", "consumer", "window", "none")
        assert min(
            stats.wait_storage_seconds, stats.wait_consumer_seconds, stats.wait_memory_seconds
        ) >= 0  # fmt: skip

    def test_a_slow_consumer_is_the_bound(self, tmp_path: Path, monkeypatch) -> None:
        import time

        monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "4000000")
        path = tmp_path / "a.safetensors"
        save_floats(path, [500_000] * 12)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            before = time.monotonic()
            for _ in streamer.get_tensors():
                # Slower than the storage, however slow a busy machine makes that.
                time.sleep(0.1 + 2 * (time.monotonic() - before))
                before = time.monotonic()
            assert streamer.stats().bound == "consumer"

    def test_slow_storage_is_the_bound(self, tmp_path: Path, faulty) -> None:
        path = tmp_path / "a.safetensors"
        save_floats(path, [500_000] * 3)
        code = """
import sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]])
    list(streamer.get_tensors())
    print(streamer.stats().bound)
"""
        found = faulty(
            code, str(path), SHIM_FROM="300000", SHIM_SECONDS="1",
            RUNAI_STREAMER_FS_STRATEGY="buffered",
        )  # fmt: skip
        assert found == "storage"

    def test_a_load_logs_one_summary_line(self, model, caplog) -> None:
        with caplog.at_level(logging.INFO, "runai_model_streamer"):
            load(model[0])
        lines = [record.message for record in caplog.records if "Overall time" in record.message]
        assert len(lines) == 1
        assert re.fullmatch(
            r"\[RunAI Streamer\] Overall time to stream .+ of all files to cpu: [\d.]+s, .+/s",
            lines[0],
        )


class TestAsACollection:
    def test_a_streamer_has_length_names_and_repr(self, model) -> None:
        streamer = SafetensorsStreamer()
        assert len(streamer) == 0 and streamer and "layers.0.bias" not in streamer
        with streamer:
            streamer.stream_files([model[0]], tensor_names=["layers.0.bias"])
            assert len(streamer) == len(streamer.keys()) == 9
            assert "layers.1.bias" in streamer and "layers.9.bias" not in streamer
            assert repr(streamer) == "<SafetensorsStreamer: 9 tensors in 1 files, 28 bytes to cpu>"


class TestFilesThatAreOpen:
    """stream_files() behind open_files() of the same files reads the headers once."""

    @pytest.mark.parametrize("same_files", [True, False])
    def test_headers_are_read_once(self, model, tmp_path, opened, same_files) -> None:
        path, tensors = model
        save_floats(tmp_path / "other.safetensors", [3])
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path if same_files else tmp_path / "other.safetensors"])
            streamer.stream_files([path])
            assert {name: t.shape for name, t in streamer.get_tensors()} == {
                name: t.shape for name, t in tensors.items()
            }
        assert opened.count(str(path)) == 1

    def test_every_load_is_of_its_own(self, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            for _ in range(2):
                streamer.stream_files([path])
                found = dict(streamer.get_tensors())
                assert all(same(found[name], tensors[name]) for name in tensors)

    def test_the_streamer_was_closed_in_between(self, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            streamer.close()
            streamer.stream_files([path])
            assert len(dict(streamer.get_tensors())) == len(tensors)
