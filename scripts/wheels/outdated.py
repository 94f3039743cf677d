"""Says if the distribution has a newer OpenSSL or libcurl than a wheel: `outdated.py WHEEL`.

On the distribution whose source packages the wheel was built from, after `apt-get update`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile

# The licence that names the version in the wheel, and a binary package of the same source.
PACKAGES = {"openssl": "libssl-dev", "curl": "libcurl4-openssl-dev"}


def version_in(wheel: str, name: str) -> str:
    """The version of the source package, from the first line of its licence."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (entry for entry in archive.namelist() if entry.endswith(f"/licenses/{name}.txt"))
        line = archive.read(path).decode().partition("\n")[0]
    found = re.fullmatch(rf"{name} (\S+), .*", line)
    if not found:
        raise ValueError(f"{path} does not begin with a version: {line}")
    return found[1]


def offered(policy: str) -> str:
    """The candidate in the output of `apt-cache policy`."""
    found = re.search(r"^  Candidate: (\S+)$", policy, re.M)
    if not found or found[1] == "(none)":
        raise ValueError("apt knows no version: run apt-get update")
    return found[1]


def newer(one: str, other: str) -> bool:
    command = ["dpkg", "--compare-versions", one, "gt", other]
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    outdated = False
    for name, package in PACKAGES.items():
        have = version_in(sys.argv[1], name)
        command = ["apt-cache", "policy", package]
        policy = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        there = offered(policy)
        state = "outdated" if newer(there, have) else "current"
        outdated |= state == "outdated"
        print(f"{name}: {have} in the wheel, {there} in the distribution: {state}")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
