"""Debian packages, unpacked into a directory of their own."""

from __future__ import annotations

import fcntl
import pathlib
import platform
import shutil
import subprocess

from .process import CACHE, Unavailable


def _run(command: list[str], cwd: pathlib.Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-800:]}")
    return done.stdout


def unpack(name: str, *packages: str) -> pathlib.Path:
    """A directory with `packages` and those of their dependencies that the system lacks."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Unavailable(f"{name} needs the packages of Debian or Ubuntu (apt-get)")
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / "roots" / name
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (root / ".complete").exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        debs = CACHE / "debs" / name
        (debs / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-y", "--no-install-recommends", "-o", "Debug::NoLocking=1"]
        options += ["-o", f"Dir::Cache::archives={debs}"]
        plan = _run(["apt-get", "install", "-s", *options, *packages])
        wanted = {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")}
        _run(["apt-get", "install", "--download-only", *options, *packages])
        for package in packages:
            if package not in wanted:  # installed, but its files are wanted here, too
                _run(["apt-get", "download", *options, package], cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            _run(["dpkg", "-x", str(deb), str(root)])
        (root / ".complete").touch()
    return root


def library_path(root: pathlib.Path) -> str:
    """LD_LIBRARY_PATH for the programs of an unpacked directory."""
    triplet = f"{platform.machine()}-linux-gnu"
    directories = [root / "usr/lib" / triplet, root / "usr/lib" / triplet / "ceph"]
    directories += [root / "lib" / triplet]
    return ":".join(str(directory) for directory in directories)
