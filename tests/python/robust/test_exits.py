"""Ending the interpreter while threads of the package ask Python, open, read and wait."""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.processes import ROOT, run_python

SAMPLE = 12


def test_the_interpreter_ends_in_the_middle_of_a_call(tmp_path: Path) -> None:
    """EXIT_SEED chooses the cases and their times; EXIT_CASES says how many, 0: each one once."""
    seed = int(os.environ.get("EXIT_SEED", random.randrange(1 << 30)))
    count = int(os.environ.get("EXIT_CASES", SAMPLE))
    print(f"EXIT_SEED={seed}")
    path = tmp_path / "model.safetensors"
    save_file({f"t{i}": torch.full((1 << 18,), float(i)) for i in range(8)}, path)
    code = "import sys\nfrom pathlib import Path\nfrom tests.python.robust.exits import main\n"
    code += "main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
    environment = {
        "OMP_NUM_THREADS": "1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = run_python(code, path, seed, count, cwd=ROOT, **environment)
    print(done.stderr)
    assert (done.returncode, done.stdout) == (0, ""), f"EXIT_SEED={seed}\n{done.stdout}"
