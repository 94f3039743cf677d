"""Peers from a directory of wheels, for machines that can't install packages."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers import PEERS, ROOT, STATE


def _project(name: str) -> str:
    """Of a requirement or a wheel's name, as wheels spell it."""
    return re.split(r"==|\[", name)[0].replace("-", "_").lower()


def use(directory: Path, names: Iterable[str]) -> None:
    """Has the peers `names` run with this interpreter, each with its own wheel in `directory` and
    all that are no peer's. Peers without a wheel are left as they are."""
    projects = {_project(need) for peer in PEERS.values() for need in peer.requirements}
    wheels = {path.name.split("-")[0].lower(): path for path in sorted(directory.glob("*.whl"))}
    helpers = [path for project, path in wheels.items() if project not in projects]
    for name in names:
        peer = PEERS[name]
        own = [wheels.get(_project(need)) for need in peer.requirements]
        if not peer.requirements or None in own:
            continue
        place = STATE / "wheels" / name
        shutil.rmtree(place, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        pip += ["--no-compile", "--find-links", str(directory), "--target", str(place)]
        subprocess.run([*pip, *peer.requirements, *map(str, helpers)], check=True)
        path = os.pathsep.join([str(ROOT), str(place)])
        PEERS[name] = dataclasses.replace(peer, requirements=(), env={"PYTHONPATH": path})
