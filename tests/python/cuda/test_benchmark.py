"""The benchmark of a GPU, run through on the stand-in driver: every row, with next to no bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from standin import Standin

from benchmarks import gpu

ROOT = Path(__file__).parents[3]


def test_every_row(standin: Standin) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--standin", "--loaders", "ours"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for row in gpu.ROWS:
        assert f"\n{row}: " in done.stdout
    for line in ("pinned copy", "registered mapping", "a group of one", "to the host"):
        assert f"{line} FAILED" not in done.stdout
        assert line in done.stdout, done.stdout
