from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cuda_standin"))
from fixtures import standin, standin_library  # noqa: F401


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    from tests.python.cuda.loads import write_checkpoint

    return write_checkpoint(tmp_path, (700, 1024), (333, 111), list(range(1, 900, 3)))
