"""Fetches what the servers of the tests run from: `python -m tests.support.servers.prefetch`.

Tests fetch it by themselves; done before them, no test spends its time on a download. What this
machine can't have is named and left to the tests, which say so.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.servers import azurite, debian, gcs_emulator
from tests.support.servers.process import Unavailable

PROGRAMS: dict[str, Callable[[], object]] = {
    "nginx": lambda: debian.unpack("nginx", "nginx", "libnginx-mod-http-lua"),
    "Ceph": lambda: debian.unpack("ceph", "radosgw", "ceph-mon", "ceph-osd", "ceph-common"),
    "Azurite": azurite.program,
    "gcp-storage-emulator": gcs_emulator.program,
}


def main() -> None:
    for name, fetch in PROGRAMS.items():
        try:
            fetch()
            print(f"{name}: here")
        except Unavailable as reason:
            print(f"{name}: {reason}")


if __name__ == "__main__":
    main()
