"""The loaders, and a virtual environment for each."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".cache" / "bench"


@dataclass(frozen=True)
class Peer:
    name: str  # as tables show it
    adapter: str  # module
    requirements: tuple[str, ...] = ()  # none: the environment that runs the benchmark
    env: dict[str, str] = field(default_factory=dict)

    def python(self) -> str:
        """The interpreter to run it with; makes its environment the first time.

        BENCH_PYTHON_<NAME> names another one, e.g. BENCH_PYTHON_OURS.
        """
        override = os.environ.get("BENCH_PYTHON_" + self.name.upper().replace("-", "_"))
        if override:
            return override
        if not self.requirements:
            return sys.executable
        directory = STATE / "venvs" / self.name
        key = hashlib.sha256(" ".join(self.requirements).encode()).hexdigest()
        stamp = directory / "installed.txt"
        python = directory / "bin" / "python"
        if not (stamp.exists() and stamp.read_text() == key):
            print(f"Setting up {self.name} ({', '.join(self.requirements)})", flush=True)
            base = os.path.realpath(sys.executable)
            subprocess.run(
                [ROOT / "scripts" / "make_venv.sh", directory],
                env={**os.environ, "PYTHON": base},
                stdin=subprocess.DEVNULL,
                check=True,
            )
            # With torch once more, so that no loader replaces it by another one.
            pip = [str(python), "-m", "pip", "install", "-qq", "--group", "torch", "numpy"]
            subprocess.run([*pip, *self.requirements], cwd=ROOT, check=True)
            stamp.write_text(key)
        return str(python)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", "benchmarks.adapters.ours"),
        Peer("original", "benchmarks.adapters.original", ("runai-model-streamer==0.17.0",)),
        Peer(
            "original-s3",
            "benchmarks.adapters.original",
            ("runai-model-streamer[s3]==0.17.0",),
        ),
        Peer(
            "original-azure",
            "benchmarks.adapters.original",
            ("runai-model-streamer[azure]==0.17.0",),
        ),
        Peer("safetensors", "benchmarks.adapters.safetensors_", ("safetensors==0.9.0rc1",)),
        Peer("instanttensor", "benchmarks.adapters.instanttensor_", ("instanttensor==0.2.2",)),
        Peer(
            "fastsafetensors",
            "benchmarks.adapters.fastsafetensors_",
            ("fastsafetensors==0.5.0",),
        ),
    )
}
