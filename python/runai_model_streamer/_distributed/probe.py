"""How much of some files the page cache of this node holds: sampled, and truthful."""

from __future__ import annotations

import os
from collections.abc import Sequence

from runai_model_streamer._paths import is_remote

_FILES = 32
_SAMPLES = 16
# From here on, reading is copying: a rank does that by itself faster than by way of others.
MOSTLY = 0.95


def cached_fraction(paths: Sequence[str]) -> float:
    """The part of `paths` that reading would not fetch from storage. 0 where that is unknown.

    Asks for single bytes that must not wait for storage, at places spread over the files.
    """
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None or not paths or any(is_remote(path) for path in paths):
        return 0.0
    asked = found = 0
    step = max(1, len(paths) // _FILES)
    for path in paths[::step]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0.0  # whoever opens it says why
        try:
            size = os.fstat(descriptor).st_size
            for number in range(_SAMPLES if size else 0):
                asked += 1
                try:
                    place = size * number // _SAMPLES
                    found += os.preadv(descriptor, [bytearray(1)], place, flag)
                except BlockingIOError:
                    pass
                except OSError:
                    return 0.0  # a file system that can't tell
        finally:
            os.close(descriptor)
    return found / asked if asked else 0.0
