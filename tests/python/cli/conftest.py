"""Commands, run in this process and in others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from runai_model_streamer._cli.app import app
from tests.python import local
from tests.python.local.conftest import preload
from tests.support.models import make_model, save

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RUNAI_STREAMER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run() -> Run:
    """run("ls", path) is the result of that command: its output and its exit code."""

    def call(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        assert result.exit_code == code, f"{result.exit_code}\n{result.output}\n{result.exception}"
        return result

    return call


@pytest.fixture
def document(run: Run) -> Callable[..., dict[str, Any]]:
    """document("ls", path) is the JSON document of that command."""

    def call(name: str, *arguments: object, code: int = 0) -> dict[str, Any]:
        found = json.loads(run(name, "--json", *arguments, code=code).stdout)
        assert isinstance(found, dict)
        return found

    return call


@pytest.fixture
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library for LD_PRELOAD that makes reads of files named *.safetensors slow."""
    source = Path(local.__file__).with_name("shim.c")
    return preload(source, tmp_path_factory.mktemp("shim"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of two files with an index, and what lies beside them."""
    directory = tmp_path / "model"
    directory.mkdir()
    weight_map = {}
    for number in (1, 2):
        name = f"model-{number:05}-of-00002.safetensors"
        tensors = {f"{k}.{number}": v for k, v in make_model(1, 3, seed=number).items()}
        (directory / name).write_bytes(save(tensors))
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text("{}")
    return directory
