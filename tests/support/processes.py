"""Python processes that tests start."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import runai_model_streamer

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(Path(runai_model_streamer.__file__).parents[1])
"""The directory from which the package under test is imported."""


def threads(most: int | None = None) -> int:
    """How many threads this process has. Waits a while until they are at most `most`: the kernel
    lists a thread for a moment after it was joined."""
    import os
    import time

    for _ in range(3000):
        found = len(os.listdir("/proc/self/task"))
        if most is None or found <= most:
            break
        time.sleep(0.01)
    return found


THREADS = inspect.getsource(threads)
"""threads(), for programs."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process with `variables`, in which the same package is imported. A
    PYTHONPATH among them comes first.
    """
    first = variables.pop("PYTHONPATH", "")
    path = [first, PACKAGE, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **variables}


def bare_environment(**variables: str) -> dict[str, str]:
    """`variables`, and only what a process needs in order to import the same package."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGE}
    return paths | ({"LD_LIBRARY_PATH": libraries} if libraries else {}) | variables


def run_python(
    code: str,
    *arguments: object,
    timeout: float = 240,
    prefix: Sequence[str] = (),
    cwd: str | Path | None = None,
    env: dict[str, str] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process, under the command `prefix` if there is one.

    `env` is its whole environment, environment(**variables) by default.
    """
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, arguments)],
        env=environment(**variables) if env is None else env,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


def python(
    code: str,
    *arguments: object,
    timeout: float = 240,
    prefix: Sequence[str] = (),
    cwd: str | Path | None = None,
    env: dict[str, str] | None = None,
    **variables: str,
) -> str:
    """The output of run_python() without white space around it; the process must succeed."""
    done = run_python(
        code, *arguments, timeout=timeout, prefix=prefix, cwd=cwd, env=env, **variables
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()
