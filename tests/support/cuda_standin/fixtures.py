"""Fixtures of the stand-in driver."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from runai_model_streamer._device import cuda as cuda
from tests.support.cuda_standin import Standin, StandinMemory, library


@pytest.fixture(scope="session")
def standin_library() -> Standin:
    return Standin(library())


@pytest.fixture
def standin(standin_library: Standin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """Two devices of 1 GiB, device 0 in use; afterwards nothing may be left of a load."""
    standin_library.reset()
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_LIBRARY", str(standin_library.path))
    monkeypatch.setattr(StandinMemory, "standin", standin_library, raising=False)
    monkeypatch.setattr(StandinMemory, "used", [], raising=False)
    monkeypatch.setattr(StandinMemory, "stream_handle", 0)
    monkeypatch.setattr(cuda, "memory_factory", StandinMemory)
    yield standin_library
    gc.collect()
    counts = standin_library.counts()
    assert counts.violations == 0, standin_library.violation()
    assert counts.pinned_bytes == 0
    assert counts.streams == 0
    assert counts.device_bytes == 0
