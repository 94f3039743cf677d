"""What the tests of local files share: files in the format, made byte by byte; processes of their
own; and reads that fail or hang, by a library that is loaded before libc."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import runai_model_streamer
from runai_model_streamer import SafetensorsStreamer

STRATEGIES = ["auto", "mapped", "buffered", "direct"]
MIB = 1 << 20


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", request.param)
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path


def file_bytes(header: Any, data: bytes = b"", *, text: bytes | None = None) -> bytes:
    blob = json.dumps(header).encode() if text is None else text
    return struct.pack("<Q", len(blob)) + blob + data


def write(path: Path, header: Any, data: bytes = b"", *, text: bytes | None = None) -> str:
    path.write_bytes(file_bytes(header, data, text=text))
    return str(path)


def make_model(path: Path, sizes: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """A file of float32 tensors t0, t1, ... of `sizes` elements."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"t{i:04}": torch.randn(n, generator=generator) for i, n in enumerate(sizes)}
    save_file(tensors, path)
    return tensors


def load(paths: Any, **options: Any) -> dict[str, torch.Tensor]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([paths] if isinstance(paths, str | Path) else paths, **options)
        return dict(streamer.get_tensors())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same bytes, shape and dtype."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*raw)


def environment(**variables: str) -> dict[str, str]:
    package = str(Path(runai_model_streamer.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def python(code: str, *arguments: str, timeout: float = 240, **variables: str) -> str:
    """What `code` prints in a process of its own, which must succeed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A library for LD_PRELOAD: see shim.c."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the tests need a C compiler"
    target = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source, "-ldl"], check=True)
    yield str(target)


Faulty = Callable[..., str]


@pytest.fixture
def faulty(shim: str) -> Faulty:
    """python() where reads of files named *.safetensors behind the first 4 KiB fail or hang."""

    def run(code: str, *arguments: str, **variables: str) -> str:
        return python(code, *arguments, LD_PRELOAD=shim, **variables)

    return run
