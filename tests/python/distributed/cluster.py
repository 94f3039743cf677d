"""Ranks as real processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.python.distributed import rank as rank_module
from tests.support.processes import ROOT
from tests.support.servers import free_port

# A process that has imported everything once, and is forked for each rank: importing torch takes
# longer than most tests.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", rank_module.__name__])


class Cluster:
    """Runs rank.py on every rank and collects what came out.

    `env` and `prefixes` (commands to run under) may differ per rank; `address` is that of rank 0.
    """

    def __init__(
        self,
        directory: Path,
        ranks: int,
        env: dict[str, str] | None = None,
        rank_env: dict[int, dict[str, str]] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
        address: str = "127.0.0.1",
        seconds: float = 280,
    ) -> None:
        self.directory, self.ranks, self.address, self.seconds = directory, ranks, address, seconds
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RUNAI_STREAMER_")},
            "RUNAI_STREAMER_DIST": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            # torch looks up a name for each address that it connects to.
            "RES_OPTIONS": "timeout:1",
            **(env or {}),
        }
        self.rank_env = rank_env or {}
        self.prefixes = prefixes or [[] for _ in range(ranks)]

    def run(self, program: str, files: Sequence[str], **job: Any) -> dict[int, Any]:
        """What each rank that came to its end wrote, by rank."""
        results = self.directory / f"results-{time.monotonic_ns()}"
        results.mkdir()
        job = {
            "program": program,
            "files": list(files),
            "results": str(results),
            "flag": str(results / "flag"),
            **job,
        }
        port = free_port()
        with contextlib.ExitStack() as stack:
            processes = []
            for rank in range(self.ranks):
                env = {
                    **self.env,
                    **self.rank_env.get(rank, {}),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(self.ranks),
                    "MASTER_ADDR": self.address,
                    "MASTER_PORT": str(port),
                }
                log = results / f"{rank}.log"
                process = self._start(rank, job, env, log)
                stack.callback(_end, process)
                processes.append(process)
            deadline = time.monotonic() + self.seconds
            for process in processes:
                process.join(max(0.1, deadline - time.monotonic()))
                if process.exitcode is None:
                    raise AssertionError(f"still running: {self._logs(results)}")
        found = {}
        for rank in range(self.ranks):
            path = results / f"{rank}.json"
            if path.exists():
                found[rank] = json.loads(path.read_text())
        if not found:
            raise AssertionError(self._logs(results))
        return found

    def _start(self, rank: int, job: dict[str, Any], env: dict[str, str], log: Path) -> Any:
        prefix = self.prefixes[rank]
        if prefix:
            command = [*prefix, sys.executable, "-m", rank_module.__name__, json.dumps(job)]
            process: Any = _FORKS.Process(target=rank_module.execute, args=(command, env, str(log)))
        else:
            process = _FORKS.Process(target=rank_module.forked, args=(job, env, str(log)))
        process.start()
        return process

    def load(self, files: Sequence[str], **job: Any) -> dict[int, Any]:
        """Every rank loads; none may fail."""
        found = self.run(job.pop("program", "load"), files, **job)
        assert len(found) == self.ranks, found
        for rank, result in found.items():
            assert "error" not in result, f"rank {rank}: {result}"
            assert result["works"]
        return found

    def torchrun(self, program: str, files: Sequence[str]) -> dict[int, Any]:
        """The same, started by torchrun."""
        results = self.directory / "torchrun"
        results.mkdir()
        job = {"program": program, "files": list(files), "results": str(results)}
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                f"--nproc-per-node={self.ranks}",
                *("-m", rank_module.__name__),
                json.dumps(job),
            ],
            env=self.env,
            check=True,
            timeout=self.seconds,
        )
        return {
            rank: json.loads((results / f"{rank}.json").read_text()) for rank in range(self.ranks)
        }

    def _logs(self, results: Path) -> str:
        return "\n".join(
            f"rank {rank}: {(results / f'{rank}.log').read_text()[-3000:]}"
            for rank in range(self.ranks)
        )


def _end(process: Any) -> None:
    if process.exitcode is None:
        process.kill()
    process.join()
