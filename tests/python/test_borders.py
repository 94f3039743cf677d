"""The checker of borders finds arrows against the direction, and nothing in this tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_borders
from scripts.check_borders import check, circles
from tests.support.processes import ROOT

PACKAGE = Path("python/runai_model_streamer")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a header in each room and a module in each layer."""
    for room in check_borders.ROOMS:
        if not room.endswith(".cc"):
            directory = tmp_path / "cpp" / room
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "own.h").write_text("#pragma once\n")
            (directory / "own.cc").write_text('#include "own.h"\n')
    package = tmp_path / PACKAGE
    package.mkdir(parents=True)
    for name in set().union(*check_borders.LAYERS) - {"_storage"}:
        (package / f"{name}.py").write_text('"""A module."""\n')
    for directory in ("_storage", *check_borders.SHIMS):
        (package / directory).mkdir()
        (package / directory / "__init__.py").write_text('"""A directory."""\n')
        (package / directory / "inner.py").write_text('"""A module."""\n\n__all__ = []\n')
    assert check(tmp_path) == []
    return tmp_path


def test_this_tree_has_no_arrow_against_the_direction() -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("src/base/bad.h", "source/own.h"),
        ("src/text/bad.cc", "source/own.h"),
        ("src/safetensors/bad.cc", "engine/own.h"),
        ("src/source/bad.h", "engine/own.h"),
        ("src/source/bad.h", "destination/own.h"),
        ("src/source/bad.h", "source/http/own.h"),
        ("src/source/file/bad.cc", "source/http/own.h"),
        ("src/source/file/bad.cc", "engine/own.h"),
        ("src/source/http/client/bad.h", "source/http/auth/own.h"),
        ("src/source/http/client/bad.h", "source/http/own.h"),
        ("src/source/http/auth/bad.cc", "source/http/own.h"),
        ("src/source/http/bad.cc", "source/http/hub/own.h"),
        ("src/source/http/s3/bad.cc", "source/http/hub/own.h"),
        ("src/destination/bad.cc", "source/own.h"),
        ("src/destination/cuda/bad.cc", "engine/own.h"),
        ("src/engine/bad.cc", "c_api/own.h"),
        ("src/engine/bad.cc", "source/http/own.h"),
        ("src/engine/bad.cc", "destination/cuda/own.h"),
        ("src/c_api/bad.cc", "source/own.h"),
        ("src/c_api/bad.cc", "engine/own.h"),
        ("bindings/bad.cc", "engine/own.h"),
        ("bindings/bad.cc", "destination/cuda/own.h"),
        ("include/bad.h", "base/own.h"),
    ],
)
def test_an_include_against_the_direction_is_found(tree: Path, file: str, header: str) -> None:
    bad = tree / "cpp" / file
    bad.write_text(f'#pragma once\n#include "{header}"\n')
    if bad.suffix == ".h":
        (bad.parent / "own.cc").write_text('#include "own.h"\n#include "bad.h"\n')
    (found,) = check(tree)
    assert found.startswith(f"cpp/{file}: ")
    assert header in found


def test_an_include_of_its_own_directory_by_name_counts(tree: Path) -> None:
    (tree / "cpp/src/destination/bad.cc").write_text('#  include "cuda/own.h"\n')
    (found,) = check(tree)
    assert "may not include src/destination/cuda/own.h" in found


def test_an_include_with_angle_brackets_counts(tree: Path) -> None:
    (tree / "cpp/src/base/bad.cc").write_text("#include <engine/own.h>\n#include <vector>\n")
    assert check(tree) == ["cpp/src/base/bad.cc: src/base may not include src/engine/own.h"]


def test_headers_that_include_each_other_are_found(tree: Path) -> None:
    base = tree / "cpp/src/base"
    (base / "one.h").write_text('#include "base/two.h"\n')
    (base / "two.h").write_text('#include "base/one.h"\n')
    assert check(tree) == ["cpp: these include each other: src/base/one.h, src/base/two.h"]


def test_a_header_that_nothing_includes_is_found(tree: Path) -> None:
    (tree / "cpp/src/base/old.h").write_text("#pragma once\n")
    assert check(tree) == ["cpp/src/base/old.h: nothing includes it"]


def test_headers_that_are_missing_or_in_no_room_are_found(tree: Path) -> None:
    (tree / "cpp/src/base/bad.cc").write_text('#include "base/nothing.h"\n')
    (tree / "cpp/src/attic").mkdir()
    (tree / "cpp/src/attic/old.h").write_text("")
    assert check(tree) == [
        "cpp/src/attic/old.h: is in no room of scripts/check_borders.py",
        "cpp/src/base/bad.cc: includes base/nothing.h, which is not there",
        "cpp/src/attic/old.h: nothing includes it",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "from runai_model_streamer._session import Session",
        "from runai_model_streamer import _session",
        "import runai_model_streamer._session",
        "from ._session import Session",
        "from . import _session",
        "if TYPE_CHECKING:\n    from runai_model_streamer._session import Session",
        "try:\n    import runai_model_streamer._session\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_of_a_higher_layer_is_found(tree: Path, line: str) -> None:
    file = tree / PACKAGE / "_gc.py"
    file.write_text(f"{file.read_text()}\n{line}\n")
    found = check(tree)
    assert any("_gc: imports _session, which is in a higher layer" in text for text in found)


def test_a_circle_in_one_layer_is_found(tree: Path) -> None:
    for name, other in (("_storage/one.py", "two"), ("_storage/two.py", "one")):
        (tree / PACKAGE / name).write_text(f"from runai_model_streamer._storage import {other}\n")
    found = check(tree)
    assert any("these import each other: _storage.one, _storage.two" in text for text in found)


@pytest.mark.parametrize("call", ["importlib.import_module(name)", "__import__(name)"])
def test_an_import_by_name_is_found(tree: Path, call: str) -> None:
    file = tree / PACKAGE / "_stats.py"
    file.write_text(f"import importlib\n\n\ndef f(name):\n    {call}\n")
    assert any("_stats: imports by name: " in text for text in check(tree))


@pytest.mark.parametrize(
    "line",
    [
        "import json",
        "from collections import abc",
        "from runai_model_streamer import _errors",
        "import numpy.linalg",
    ],
)
def test_an_import_inside_a_function_is_found(tree: Path, line: str) -> None:
    file = tree / PACKAGE / "_stats.py"
    file.write_text(f"{file.read_text()}\n\nclass C:\n    async def f(self):\n        {line}\n")
    assert any("_stats: imports " in text and "inside a function" in text for text in check(tree))


def test_an_optional_package_may_be_imported_inside_a_function(tree: Path) -> None:
    file = tree / PACKAGE / "_stats.py"
    file.write_text(f"{file.read_text()}\n\ndef f():\n    import boto3\n    import google.auth\n")
    assert check(tree) == []


def test_a_shim_that_does_more_than_to_re_export_is_found(tree: Path) -> None:
    file = tree / PACKAGE / "s3_utils" / "inner.py"
    file.write_text(f"{file.read_text()}\nNUMBER = 1\n")
    assert any("s3_utils/inner: does more than to re-export" in text for text in check(tree))


def test_the_use_of_a_shim_inside_is_found(tree: Path) -> None:
    file = tree / PACKAGE / "_loading.py"
    file.write_text(f"{file.read_text()}\nfrom runai_model_streamer.s3_utils import inner\n")
    assert any("_loading: imports the shim s3_utils.inner" in text for text in check(tree))


def test_a_module_in_no_layer_is_found(tree: Path) -> None:
    (tree / PACKAGE / "_attic.py").write_text("")
    assert any("_attic: is in no layer" in text for text in check(tree))


def test_a_circle_of_rooms_is_found(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    monkeypatch.setitem(check_borders.ROOMS, "src/base", {"src/engine"})
    assert any("ROOMS has a circle" in text for text in check(tree))


def test_circles_are_found_with_all_their_members() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d"], "f": ["a", "f"]}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["d", "e"]]
    assert list(circles({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []})) == []
