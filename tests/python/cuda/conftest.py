from __future__ import annotations

from pathlib import Path

import pytest

from tests.python.cuda.gpus import REAL, RealGpu, StandinGpu
from tests.python.cuda.loads import write_checkpoint
from tests.support.cuda_standin.fixtures import standin, standin_library  # noqa: F401


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    return write_checkpoint(tmp_path, (700, 1024), (333, 111), list(range(1, 900, 3)))


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> RealGpu | StandinGpu:
    return RealGpu() if REAL else StandinGpu(request.getfixturevalue("standin"))


@pytest.fixture
def big_files(tmp_path: Path) -> list[Path]:
    """`checkpoint` in a size that keeps a GPU busy; smaller on the stand-in driver."""
    scale = 1 if REAL else StandinGpu.scale
    small = list(range(1, 2000 // scale + 1))
    return write_checkpoint(tmp_path, (9000 // scale, 4096), (3333, 1111), small)
