"""Environment variables, log lines, and errors as values."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer, StreamerError
from runai_model_streamer import _errors as errors
from tests.support.models import load, save_floats
from tests.support.processes import environment, python


@pytest.fixture
def path(tmp_path: Path) -> str:
    save_floats(tmp_path / "a.safetensors", [10, 100_000])
    return str(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("RUNAI_STREAMER_CONCURRENCY", "0", "1 to 1024"),
        ("RUNAI_STREAMER_CONCURRENCY", "eight", "1 to 1024"),
        ("RUNAI_STREAMER_CHUNK_BYTESIZE", "4095", "4096"),
        ("RUNAI_STREAMER_CHUNK_BYTESIZE", "2MB", "bytes"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "-2", "-1, 0 or bytes"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "99999999999999999999", "-1, 0 or bytes"),
        ("RUNAI_STREAMER_FS_STRATEGY", "direct,psychic", "mapped"),
        ("RUNAI_STREAMER_LOG_LEVEL", "loud", "debug"),
        ("RUNAI_STREAMER_LOG_TO_STDERR", "perhaps", "true"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(
    name: str, value: str, accepted: str, path: str, monkeypatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StreamerError) as caught:
        load(path)
    for part in (name, value, accepted):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "value", ["io_uring_direct,libaio_direct,sync_buffered", "sync_buffered", "Direct,Buffered"]
)
def test_the_originals_names_of_strategies(value: str, path: str, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", value)
    assert len(load(path)) == 2


@pytest.mark.parametrize("value", ["", "16", "1"])
def test_empty_is_unset(value: str, path: str, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", value)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        list(streamer.get_tensors())
        assert streamer.stats().concurrency == int(value or 16)


@pytest.mark.parametrize("chunk", ["4096", "100000", "1073741824"])
def test_any_size_of_reads(chunk: str, strategy: str, path: str, monkeypatch) -> None:
    expected = load(path)
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", chunk)
    found = load(path)
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("limit", ["-1", "0", "400000", "999999999999"])
def test_any_limit_that_is_large_enough(limit: str, strategy: str, path: str, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        assert len(list(streamer.get_tensors())) == 2
        stats = streamer.stats()
    if limit == "-1":
        assert stats.memory_limit is None
    else:
        assert stats.memory_limit is not None and stats.memory_limit >= 400_000


def test_ignored_variables_are_told_to_whoever_debugs(path: str) -> None:
    code = """
import sys
from runai_model_streamer import load_file
load_file(sys.argv[1]); load_file(sys.argv[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, path],
        env=environment(
            RUNAI_STREAMER_LOG_LEVEL="DEBUG",
            RUNAI_STREAMER_LOG_TO_STDERR="1",
            RUNAI_STREAMER_FS_QUEUE_DEPTH="64",
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in result.stderr.splitlines() if "RUNAI_STREAMER_FS_QUEUE_DEPTH" in line]
    assert len(lines) == 1
    assert "[DEBUG]" in lines[0]


def test_lines_go_to_a_file(path: str, tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "log.txt"
    monkeypatch.setenv("RUNAI_STREAMER_LOG_FILE", str(log))
    load(path)
    monkeypatch.delenv("RUNAI_STREAMER_LOG_FILE")
    load(path)
    assert log.read_text().count("Overall time to stream") == 1
    assert "[INFO]" in log.read_text()


def test_a_level_is_obeyed(path: str, monkeypatch, caplog) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_LOG_LEVEL", "ERROR")
    with caplog.at_level(logging.DEBUG):
        load(path)
    assert not [record for record in caplog.records if record.name.startswith("runai_model")]


class TestTheLoggerOfTheHost:
    @pytest.fixture
    def logger(self, monkeypatch):
        logger = logging.getLogger("runai_model_streamer")
        monkeypatch.delenv("RUNAI_STREAMER_LOG_LEVEL", raising=False)
        before = logger.level, logger.propagate
        yield logger
        logger.setLevel(before[0])
        logger.propagate = before[1]

    def test_its_level_and_its_propagation_stay(self, path: str, logger) -> None:
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
        load(path)
        assert (logger.level, logger.propagate) == (logging.CRITICAL, False)


class TestRequests:
    @pytest.mark.parametrize(
        ("offsets", "sizes", "text"),
        [
            ([1], [1, 2], "1 offsets do not go with 2 sizes"),
            ([-1], [1], "must not be negative"),
            (0, [-1], "must not be negative"),
            (0.5, [1], "whole numbers"),
            (0, ["a"], "whole numbers"),
        ],
    )
    def test_what_is_no_request(self, offsets, sizes, text) -> None:
        with pytest.raises(StreamerError, match=text):
            FileChunks(0, "x", offsets, sizes)

    def test_requests_take_numbers_of_numpy(self, path: str) -> None:
        for offsets in (numpy.int64(8), numpy.array([8, 9]), [numpy.int64(8), 9]):
            sizes = numpy.array([1, 2], dtype=numpy.uint32)
            request = FileChunks(0, path, offsets, sizes)
            assert (request.offsets, request.sizes) == ([8, 9], [1, 2])
            with FileStreamer() as streamer:
                streamer.stream_files([request])
                assert [chunk.numel() for _, _, chunk in streamer.get_chunks()] == [1, 2]


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)
         and issubclass(kind, StreamerError)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_value_errors_that_travel(kind: type[StreamerError]) -> None:
    error = kind("what happened", code="io", path="/a", offset=0, size=7, errno=5, hint="do this")
    error.rank, error.host = 3, "node7"
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (other.rank, other.host) == (3, "node7")
        assert type(other) is kind and isinstance(other, ValueError)
        assert str(other) == "what happened"
        assert (other.code, other.path, other.offset, other.size) == ("io", "/a", 0, 7)
        assert (other.errno, other.hint, other.http_status) == (5, "do this", None)


def test_import_is_quiet() -> None:
    code = """
import sys, threading, torch
import os
before = len(os.listdir("/proc/self/task"))
import runai_model_streamer
print(len(os.listdir("/proc/self/task")) - before, threading.active_count(),
      torch.cuda.is_initialized(), "boto3" in sys.modules)
"""
    assert python(code) == "0 1 False False"
