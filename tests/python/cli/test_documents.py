"""The documents that --json prints have the members that the documentation names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer._errors import FIELDS
from tests.python.cli.test_commands import NAMES
from tests.support.processes import ROOT
from tests.support.servers.listing import serve_directory

PAGE = (ROOT / "docs" / "guides" / "command-line.md").read_text()
NAME = re.compile(r"`(\w+)`")


def documented(command: str) -> dict[str, set[str]]:
    """Each member of the document of a command, and the members of what it contains."""
    section = PAGE.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    text = re.search(r"Document: (.*?)\.(?:\n|$)", section, re.S)
    assert text, command
    members: dict[str, set[str]] = {}
    for names, inside in re.findall(r"([^()]+)(?:\(([^()]*)\))?", text[1]):
        outside = NAME.findall(names)
        members |= {name: set() for name in outside}
        # One list in brackets is for all names that "and" joins before it.
        last = outside[-2:] if " and `" in names else outside[-1:]
        members |= {name: set(NAME.findall(inside)) for name in last}
    return members


def keys_inside(value: Any) -> Iterator[str]:
    """The keys of objects in `value`, at any depth."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            yield from one
            for deeper in one.values():
                if isinstance(deeper, list):
                    yield from keys_inside(deeper)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of `tmp_path`."""
    with serve_directory(tmp_path) as url:
        yield url


def test_sizes_that_a_list_does_not_tell(run, document, model: Path, web: str) -> None:
    result = document("ls", f"{web}/model")
    assert {one["size"] for one in result["objects"]} == {None}
    said = run("ls", f"{web}/model").stdout
    assert said.endswith(f"\n{result['count']} files of unknown size\n")


@pytest.fixture
def found(document, model: Path, web: str, tmp_path: Path, monkeypatch) -> Any:
    """found(name) is the document of that command, of a model in which something is wrong."""
    monkeypatch.setenv("RUNAI_STREAMER_XYZZY", "5")
    first, second = sorted(model.glob("model-*.safetensors"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.safetensors").write_bytes(first.read_bytes())
    (broken / "y.safetensors").write_bytes(b"no header")
    arguments = {
        "ls": ([model], 0),
        "inspect": ([broken], 1),
        "diff": ([first, second], 1),
        "pull": ([f"{web}/model/", tmp_path / "copy"], 0),
        "verify": ([broken], 1),
        "manifest": ([model], 0),
        "doctor": ([tmp_path / "missing"], 3),
        "bench": ([first, "--seconds", "0.1"], 0),
        "env": ([], 1),
    }

    def call(name: str) -> dict[str, Any]:
        given, code = arguments[name]
        return document(name, *given, code=code)

    return call


@pytest.mark.parametrize("name", NAMES)
def test_the_document_has_the_members_of_the_page(found, name: str) -> None:
    result, members = found(name), documented(name)
    assert result.pop("schema") == f"model-streamer.{name}/1"
    assert result.keys() == members.keys()
    for member, inside in members.items():
        if inside:
            assert set(keys_inside(result[member])) == inside, member


def test_an_error_has_a_document(document, tmp_path: Path) -> None:
    result = document("ls", tmp_path / "missing", code=3)
    assert result.keys() == {"schema", "error"}
    assert result["error"].keys() == {"type", "text", "code", *FIELDS}
