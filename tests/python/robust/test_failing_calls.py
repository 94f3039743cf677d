"""Whichever call of the system fails in a load, it ends with all the right bytes or with one typed
error, in time; the process can load again, and nothing is left of the load."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.cuda_standin import library
from tests.support.needs import running
from tests.support.processes import ROOT, run_python
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import Authority

SAMPLE = 40

CODE = """
import json, sys
from tests.python.robust.failing_calls import main
main(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, str]]:
    file = tmp_path / "model.safetensors"
    tensors = {f"large{i}": torch.full((700_001 + i,), i, dtype=torch.uint8) for i in range(4)}
    tensors |= {f"small{i}": torch.full((1000 + i,), float(i)) for i in range(40)}
    save_file(tensors, file)
    authority = Authority(tmp_path / "authority")
    with running(Nginx(tmp_path, certificate=authority.issue("nginx"))) as server:
        yield {
            "file": str(file),
            "http": f"{server.url}/{file.name}",
            "https": f"{server.tls_url}/{file.name}",
            "ca": str(authority.ca),
            "standin": str(library()),
        }


@pytest.fixture
def shim(tmp_path: Path) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the tests need a C compiler"
    target = tmp_path / "failing.so"
    source = Path(__file__).with_name("failing.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source, "-ldl"], check=True)
    return str(target)


@pytest.mark.servers
def test_any_call_fails(job: dict[str, str], shim: str) -> None:
    """FAULT_SEED chooses the calls; FAULTS says how many, 0: each call of each load in turn, or of
    the kind that FAULT_KIND names."""
    seed = int(os.environ.get("FAULT_SEED", random.randrange(1 << 30)))
    count = int(os.environ.get("FAULTS", SAMPLE))
    print(f"FAULT_SEED={seed}")
    done = run_python(
        CODE,
        json.dumps(job),
        seed,
        count,
        os.environ.get("FAULT_KIND", ""),
        cwd=ROOT,
        timeout=3600,
        LD_PRELOAD=shim,
        OMP_NUM_THREADS="1",
        RUNAI_STREAMER_LOG_LEVEL="ERROR",
    )
    print(done.stderr)
    said = done.stdout.strip()
    assert done.returncode == 0 and said == "", f"FAULT_SEED={seed}\n{said}\n{done.stderr}"
