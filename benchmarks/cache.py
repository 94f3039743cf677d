"""The state of the page cache: forced, and verified page by page."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def cached_fraction(files: Iterable[str]) -> float:
    """The part of the files' pages that the page cache holds.

    mincore tells the truth about files that the caller owns or may write; these are.
    """
    pages = cached = 0
    for path in files:
        size = os.path.getsize(path)
        if size == 0:
            continue
        count = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        state = np.zeros(count, dtype=np.uint8)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as map_:
            view = np.frombuffer(map_, dtype=np.uint8)
            if _libc.mincore(view.ctypes.data, size, state.ctypes.data) != 0:
                raise OSError(ctypes.get_errno(), "mincore", path)
            del view
        pages += count
        cached += int((state & 1).sum())
    return cached / pages if pages else 0.0


def drop(files: list[str]) -> None:
    """Takes the files out of the page cache; raises if they stay there."""
    for attempt in range(5):
        for path in files:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        left = cached_fraction(files)
        if left < 0.001:
            return
        time.sleep(0.2 * (attempt + 1))
    raise RuntimeError(f"{left:.1%} of the files stays in the page cache")


def warm(files: list[str]) -> None:
    """Reads the files into the page cache; raises if they do not stay there."""
    buffer = bytearray(8 << 20)
    for _ in range(4):
        there = cached_fraction(files)
        if there > 0.9995:
            return
        for path in files:
            if cached_fraction([path]) < 1.0:
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass
    raise RuntimeError(f"only {there:.1%} of the files stays in the page cache")


def force(state: str, files: list[str]) -> None:
    """`state`: warm, cold, or any (leaves it alone)."""
    if state == "warm":
        warm(files)
    elif state == "cold":
        drop(files)
