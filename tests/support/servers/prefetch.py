"""Fetches what the servers of the tests run from: `python -m tests.support.servers.prefetch`.

Tests fetch it by themselves; done before them, no test spends its time on a download. What cannot
be fetched is named, and the exit status is 1; the tests that need it report it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.support.servers import azurite, debian, gcs_emulator
from tests.support.servers.process import Unavailable

PROGRAMS: dict[str, Callable[[], object]] = {
    "nginx": lambda: debian.unpack("nginx", "nginx", "libnginx-mod-http-lua"),
    "Ceph": lambda: debian.unpack("ceph", "radosgw", "ceph-mon", "ceph-osd", "ceph-common"),
    "Azurite": azurite.program,
    "gcp-storage-emulator": gcs_emulator.program,
}


def main() -> int:
    missing = 0
    for name, fetch in PROGRAMS.items():
        try:
            fetch()
            print(f"{name}: here")
        except Unavailable as reason:
            missing += 1
            print(f"{name}: {reason}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
