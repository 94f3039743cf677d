"""A FUSE file system as slow as mounts of storage elsewhere are. Needs root and /dev/fuse."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
from typing import Any

from .compiler import build
from .process import Server, Unavailable

SOURCE = pathlib.Path(__file__).resolve().parent / "file_mount.cc"
DETACH = 2  # MNT_DETACH


class FileMount(Server):
    """The files of the directory `source`, at `path`. See file_mount.cc for the options."""

    def __init__(self, source: pathlib.Path | str, **options: float) -> None:
        super().__init__()
        self.source = str(source)
        self.options = options
        self.path = self.directory / "mount"

    def start(self) -> None:
        if os.getuid() != 0 or not os.path.exists("/dev/fuse"):
            raise Unavailable("a FUSE mount needs root and /dev/fuse")
        self.path.mkdir()
        options = [f"{name}={value:g}" for name, value in self.options.items()]
        program = str(build(SOURCE, "-pthread"))
        self.spawn([program, self.source, str(self.path), *options])
        try:
            self.wait_until(lambda: "ready" in self.log(), "the FUSE mount")
        except RuntimeError as error:
            if "not permitted" in str(error) or "/dev/fuse" in str(error):
                raise Unavailable(f"no FUSE mounts: {self.log().strip()}") from error
            raise

    def counts(self) -> dict[str, Any]:
        """What was served so far: reads, bytes, jumps, opens, direct_opens, most_in_flight."""
        return dict(json.loads((self.path / "STATS").read_text()))

    def stop(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self.path), DETACH)
        super().stop()
