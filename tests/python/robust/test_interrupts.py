"""Every public call that waits obeys Ctrl-C, and close() of another thread."""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.processes import ROOT, run_python

CODE = """
import sys
from pathlib import Path
from tests.python.robust.interrupts import main
main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


def test_every_call_that_waits_can_be_interrupted(tmp_path: Path) -> None:
    """INTERRUPT_SEED chooses when."""
    seed = int(os.environ.get("INTERRUPT_SEED", random.randrange(1 << 30)))
    print(f"INTERRUPT_SEED={seed}")
    path = tmp_path / "model.safetensors"
    save_file({f"t{i}": torch.full((1 << 18,), float(i)) for i in range(4)}, path)
    done = run_python(
        CODE,
        path,
        tmp_path,
        seed,
        cwd=ROOT,
        OMP_NUM_THREADS="1",
        AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_REGION="us-east-1",
        # No request ends by itself.
        RUNAI_STREAMER_LOW_SPEED_SECONDS="0",
        RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING="0",
    )
    print(done.stderr)
    assert (done.returncode, done.stdout) == (0, ""), f"INTERRUPT_SEED={seed}\n{done.stdout}"
