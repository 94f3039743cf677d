"""progress=True"""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer import _progress as progress
from tests.support.models import make_model, save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.safetensors").write_bytes(save(make_model(3, 3)))
    return tmp_path / "a.safetensors"


def stream(path: Path, wanted: object) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], progress=wanted)  # type: ignore[arg-type]
        assert len(list(streamer.get_tensors())) == 3


@pytest.fixture
def without_tqdm(monkeypatch) -> None:
    real = builtins.__import__

    def fake(name, *arguments, **options):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_tqdm_shows_a_bar(path: Path, capsys) -> None:
    stream(path, True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "file: 100%" in shown.err
    assert "3.00M/3.00M" in shown.err


def test_lines_replace_the_bar_without_tqdm(path: Path, capsys, without_tqdm) -> None:
    stream(path, True)
    assert "file: 3.0 MiB of 3.0 MiB" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [None, False])
def test_no_bar_is_shown_unless_asked_for(path: Path, capsys, wanted) -> None:
    stream(path, wanted)
    assert capsys.readouterr().err == ""


def test_each_node_shows_one_bar(path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    stream(path, True)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    stream(path, True)
    assert capsys.readouterr().err != ""


def test_a_broken_terminal_does_not_end_the_load(path: Path, monkeypatch) -> None:
    def broken(source: str, total: int) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(progress, "_make_tqdm", broken)
    stream(path, True)


def test_a_callback_is_called_as_before(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    stream(path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3 << 20, 3 << 20)
