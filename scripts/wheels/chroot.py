"""A small Debian to try a package in."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_root(root: Path, packages: str, program: str) -> None:
    """Makes a Debian with `packages`, separated by commas, in `root`, if it lacks `program`.

    Needs root, and debootstrap.
    """
    if (root / "usr" / "bin" / program).exists():
        return
    mirror = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[0]
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)]
    subprocess.run([*command, mirror], check=True, stdout=subprocess.DEVNULL)
