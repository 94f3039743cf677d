"""The log: what the host has configured stays as it is, and no log line fails a load."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from runai_model_streamer import _logging
from tests.support.models import load, make_model, save


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a.safetensors").write_bytes(save(make_model(1, 2)))
    return str(tmp_path / "a.safetensors")


def state_of_the_host() -> list[object]:
    loggers = [logging.getLogger(), logging.getLogger("runai_model_streamer")]
    return [
        (one.level, one.propagate, one.disabled, list(one.handlers), list(one.filters))
        for one in loggers
    ]


@pytest.mark.parametrize("level", [logging.NOTSET, logging.CRITICAL])
@pytest.mark.parametrize("stderr", ["", "1"])
@pytest.mark.parametrize("wanted", ["", "debug", "error"])
def test_levels_and_handlers_of_the_host_stay(
    path: str, tmp_path: Path, monkeypatch, level: int, stderr: str, wanted: str
) -> None:
    host = logging.getLogger("runai_model_streamer")
    before_level = host.level
    host.setLevel(level)
    try:
        before = state_of_the_host()
        monkeypatch.setenv("RUNAI_STREAMER_LOG_LEVEL", wanted)
        monkeypatch.setenv("RUNAI_STREAMER_LOG_TO_STDERR", stderr)
        monkeypatch.setenv("RUNAI_STREAMER_LOG_FILE", str(tmp_path / "log"))
        load(path)
        assert state_of_the_host() == before
        monkeypatch.delenv("RUNAI_STREAMER_LOG_FILE")
        load(path)
        assert state_of_the_host() == before
    finally:
        host.setLevel(before_level)
    logged = (tmp_path / "log").read_text()
    assert ("Overall time" in logged) is (wanted != "error")


def test_an_own_destination_takes_lines_from_the_host(path, monkeypatch, caplog, capsys) -> None:
    with caplog.at_level(logging.INFO):
        load(path)
        assert "Overall time" in caplog.text
        caplog.clear()
        monkeypatch.setenv("RUNAI_STREAMER_LOG_TO_STDERR", "1")
        load(path)
    assert "Overall time" not in caplog.text
    assert "[INFO] [RunAI Streamer] Overall time" in capsys.readouterr().err


def test_a_log_file_that_cannot_be_written(path, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_LOG_FILE", str(tmp_path / "no" / "log"))
    monkeypatch.setenv("RUNAI_STREAMER_TRACE_FILE", str(tmp_path / "no" / "trace"))
    for _ in range(2):
        assert len(load(path)) == 2
    for name in ("LOG_FILE", "TRACE_FILE"):
        told = [one for one in caplog.messages if f"RUNAI_STREAMER_{name}" in one]
        assert len(told) == 1, name
        assert "can't be written to" in told[0]


def test_a_name_that_is_no_setting(path: str, monkeypatch, caplog) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURENCY", "5")
    for _ in range(2):
        load(path)
    told = [one for one in caplog.messages if "CONCURENCY" in one]
    assert told == [
        "RUNAI_STREAMER_CONCURENCY is set, but is not a setting: "
        "did you mean RUNAI_STREAMER_CONCURRENCY?"
    ]


def test_a_deprecated_name_of_a_setting(path: str, monkeypatch, caplog) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_HEDGE", "0")
    for _ in range(2):
        load(path)
    told = [one for one in caplog.messages if "HEDGE" in one]
    assert told == ["RUNAI_STREAMER_HEDGE is deprecated: use RUNAI_STREAMER_ABORT_STRAGGLERS"]


def test_retries_are_warnings_from_the_second_on(caplog, monkeypatch) -> None:
    log = _logging.Log()
    seconds = iter([100.0, 100.5, 101.4, 101.6])
    monkeypatch.setattr(_logging, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        for attempt in (1, 2, 3, 4):
            log.retried("s3://b/k", attempt, 0.5, ValueError("secret"))
    levels = [one.levelno for one in caplog.records]
    # The third follows within a second: other connections warn of the same.
    assert levels == [logging.DEBUG, logging.WARNING, logging.DEBUG, logging.WARNING]
    assert "attempt 2 failed, the next one follows in 0.5 s" in caplog.messages[1]
    assert "secret" not in caplog.text
