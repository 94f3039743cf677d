"""safe_open() compared with safetensors.safe_open()."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy
import pytest
import safetensors
import safetensors.torch
import torch

import runai_model_streamer
from runai_model_streamer import (
    SafetensorsHeaderError,
    StreamerChangedError,
    StreamerClosedError,
    StreamerError,
    StreamerUnsupportedError,
    list_files,
    safe_open,
)
from runai_model_streamer._session import Session
from tests.support.models import same
from tests.support.processes import THREADS, python

TENSORS = {
    "weight": torch.arange(24, dtype=torch.float32).view(4, 3, 2),
    "bias": torch.arange(7, dtype=torch.int16),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "none": torch.zeros(0, 5),
    "half": torch.arange(5, dtype=torch.bfloat16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"format": "pt", "a": "b"})
    return path


def test_what_safetensors_gives(strategy: str, path: Path) -> None:
    with safe_open(path) as mine, safetensors.safe_open(path, "pt") as theirs:
        assert mine.keys() == sorted(theirs.keys())
        assert mine.offset_keys() == list(mine) == theirs.offset_keys()
        assert mine.metadata() == theirs.metadata()
        assert len(mine) == 5 and "bias" in mine and "other" not in mine
        assert repr(mine) == "<SafeOpen: 5 tensors in 1 files>"
        for name in theirs.keys():  # noqa: SIM118 - it is no mapping
            assert same(mine.get_tensor(name), theirs.get_tensor(name))
            part, other = mine.get_slice(name), theirs.get_slice(name)
            assert part.get_shape() == other.get_shape()
            assert part.get_dtype() == other.get_dtype()
        index = (slice(1, 3), slice(None), 0)
        assert same(mine.get_slice("weight")[index], theirs.get_slice("weight")[index])
    safetensors.torch.save_file(TENSORS, path)
    with safe_open(path) as mine:
        assert mine.metadata() is None


def test_arrays_equal_those_of_safetensors(path: Path) -> None:
    for framework in ("np", "numpy"):
        with safe_open(path, framework) as mine, safetensors.safe_open(path, "np") as theirs:
            for name in ("weight", "bias", "scalar", "none"):
                found, expected = mine.get_tensor(name), theirs.get_tensor(name)
                assert isinstance(found, numpy.ndarray) and found.dtype == expected.dtype
                assert numpy.array_equal(found, expected)
            assert isinstance(mine.get_slice("weight")[1:2], numpy.ndarray)
            with pytest.raises(StreamerUnsupportedError, match="no bfloat16"):
                mine.get_tensor("half")


def test_other_frameworks_devices_and_names_are_refused(path: Path) -> None:
    with pytest.raises(StreamerError, match="neither"):
        safe_open(path, "jax")  # type: ignore[call-overload]
    with pytest.raises(StreamerError, match="host memory"):
        safe_open(path, "np", "cuda:0")
    with safe_open(path, device="meta") as file:
        assert file.get_tensor("bias").is_meta and file.get_slice("bias")[1:].is_meta
    with safe_open(path) as file:
        for call in (file.get_tensor, file.get_slice):
            with pytest.raises(KeyError):
                call("other")
    with pytest.raises(SafetensorsHeaderError):
        (path.parent / "a.safetensors").write_bytes(bytes(range(100, 200)))
        safe_open(path.parent / "a.safetensors")


def test_an_index_decides_which_file_has_a_name(tmp_path: Path) -> None:
    for name, tensors in {"b": {"x": 1.0, "w": 7.0}, "a": {"w": 2.0}, "z": {"w": 9.0}}.items():
        values = {key: torch.full((2,), value) for key, value in tensors.items()}
        safetensors.torch.save_file(values, tmp_path / f"{name}.safetensors")
    with pytest.raises(StreamerError, match="stands in"):
        safe_open(tmp_path)
    weights = {"x": "b.safetensors", "w": "a.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with safe_open(tmp_path) as file:
        assert file.offset_keys() == ["w", "x"]
        assert [float(file.get_tensor(name)[0]) for name in file] == [2, 1]


def test_one_session_serves_everything(path: Path, opened: list[str], monkeypatch) -> None:
    made = []
    init = Session.__init__
    monkeypatch.setattr(Session, "__init__", lambda *a, **k: made.append(1) or init(*a, **k))
    with safe_open(path) as file:
        for name in file:
            file.get_tensor(name)
            file.get_slice(name)[...]
    assert (len(made), opened) == (1, [str(path)])


def test_what_was_read_outlives_close(path: Path) -> None:
    file = safe_open(path)
    tensor, part = file.get_tensor("bias"), file.get_slice("bias")
    file.close()
    file.close()
    assert same(tensor, TENSORS["bias"]) and len(file) == 5
    for read in (lambda: file.get_tensor("bias"), lambda: part[0]):
        with pytest.raises(StreamerClosedError, match="were closed"):
            read()


def test_a_file_that_was_replaced(path: Path) -> None:
    with safe_open(path) as file:
        part = file.get_slice("weight")
        part[0]
        with open(path, "ab") as other:
            other.write(b"more")
        with pytest.raises(StreamerChangedError):
            part[0]


def test_threads_and_forks(path: Path) -> None:
    with safe_open(path) as file, ThreadPoolExecutor(8) as pool:
        names = [*TENSORS] * 20
        for name, tensor in zip(names, pool.map(file.get_tensor, names), strict=True):
            assert same(tensor, TENSORS[name])
        child = os.fork()
        if child == 0:
            good = same(file.get_tensor("weight"), TENSORS["weight"])
            file.close()
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert same(file.get_tensor("weight"), TENSORS["weight"])


def test_nothing_is_left_behind(path: Path) -> None:
    code = """
import os, sys
from runai_model_streamer import safe_open
count = lambda most=None: (len(os.listdir("/proc/self/fd")), threads(most))
before = count()
for _ in range(3):
    with safe_open(sys.argv[1]) as file:
        file.get_tensor("bias")
file = safe_open(sys.argv[1])
del file
after = count(before[1])
assert after == before, (after, before)
"""
    python(THREADS + code, path)


def test_the_package_exports_its_names_and_errors(tmp_path: Path) -> None:
    assert runai_model_streamer.__version__ == version("runai-model-streamer")
    assert list_files(tmp_path) == []
    assert all(hasattr(runai_model_streamer, name) for name in runai_model_streamer.__all__)
    errors = [name for name in dir(runai_model_streamer._errors) if name.endswith("Error")]
    assert errors and set(errors) <= set(runai_model_streamer.__all__) | {"PeerError"}
