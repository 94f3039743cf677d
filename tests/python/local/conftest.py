"""Fixtures of the tests of local files: strategies, and a preloaded library that fails reads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from runai_model_streamer._session import Session
from tests.support.processes import python

STRATEGIES = ["auto", "mapped", "buffered", "direct"]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", request.param)
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of three layers, and its tensors."""
    tensors = {
        f"layers.{layer}.{part}": torch.randn(*shape)
        for layer in range(3)
        for part, shape in {"weight": (300, 400), "bias": (7,), "none": (0, 2)}.items()
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path, tensors


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that sessions have opened, in that order."""
    paths: list[str] = []
    then = Session.opening

    def opening(self: Session, wanted: Sequence[str], *rest: Any) -> Any:
        paths.extend(wanted)
        return then(self, wanted, *rest)

    monkeypatch.setattr(Session, "opening", opening)
    return paths


def preload(source: Path, directory: Path) -> str:
    """The library for LD_PRELOAD that `source`, a file of C, makes; it is built in `directory`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the tests need a C compiler"
    target = directory / source.with_suffix(".so").name
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source, "-ldl"], check=True)
    return str(target)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library for LD_PRELOAD: see shim.c."""
    return preload(Path(__file__).with_name("shim.c"), tmp_path_factory.mktemp("shim"))


Faulty = Callable[..., str]


@pytest.fixture
def faulty(shim: str) -> Faulty:
    """python(), but reads of files named *.safetensors behind the first 4 KiB fail or hang."""

    def run(code: str, *arguments: object, **variables: str) -> str:
        return python(code, *arguments, LD_PRELOAD=shim, **variables)

    return run
