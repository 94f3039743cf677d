"""One rank, in a process of its own: started by a command with what to do as JSON, or forked from a
process that has imported everything. Writes what came out to RESULTS/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from runai_model_streamer._distributed import (
    membership,
    staging,
)
from tests.python.distributed import delays, failing, programs
from tests.python.distributed.job import JOB, my_rank, wait_for


def program_of(name: str) -> Callable[[], dict[str, Any]]:
    return next(vars(of)[name] for of in (programs, failing, delays) if name in vars(of))


def describe(error: BaseException) -> dict[str, Any]:
    return {
        "error": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "text": str(error),
        "rank": getattr(error, "rank", None),
    }


def hidden(address: object) -> Any:
    raise PermissionError("/proc is somebody else's")


def collective_works(total: torch.Tensor) -> bool:
    """Whether the default group, which sums `total` of ones, is as it was."""
    dist.all_reduce(total)
    return int(total) == dist.get_world_size()


def main(job: dict[str, Any]) -> None:
    """Does `job` as the rank that the environment says."""
    from datetime import timedelta

    JOB.update(job)
    if JOB.get("way") == "gloo":
        membership.on_one_node = lambda hellos: False
    elif JOB.get("way") == "hidden from rank 1" and my_rank() == 1:
        staging.attach = hidden
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    try:
        result = program_of(JOB["program"])()
    except Exception as error:
        result = describe(error)
    # Python keeps it until the group is gone. Else a thread of gloo may be the last to drop it, and
    # needs the GIL for that, with which destroy_process_group() of torch 2.3 waits for this thread.
    total = torch.ones(1, dtype=torch.int64)
    if JOB.get("afterwards", True):
        result["works"] = collective_works(total)
    path = Path(JOB["results"]) / f"{my_rank()}.json"
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").rename(path)
    if my_rank() == 0:  # whose process has the key-value store
        for rank in JOB.get("store_until", []):
            wait_for(str(Path(JOB["results"]) / f"{rank}.json"))
    if JOB.get("afterwards", True):
        dist.barrier()
        dist.destroy_process_group()


def forked(job: dict[str, Any], env: dict[str, str], log: str) -> None:
    """As main(), after fork()."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    main(job)


def execute(command: list[str], env: dict[str, str], log: str) -> None:
    """As a process of its own, after fork()."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execvpe(command[0], command, env)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
