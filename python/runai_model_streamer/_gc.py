"""Control of the garbage collector while a load makes tens of thousands of live objects.

A full collection walks all objects of the process and of its imported packages, which takes 0.1 to
1 s. That many new objects start several collections.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

# Garbage of a consumer's own may hold tensors: no more of them than this between two collections.
_BYTES_BETWEEN = 256 << 20
_MOST_OBJECTS = 50_000
_FEW_TENSORS = 1000

# The collector itself may end a load that was abandoned, also in a thread that has the lock.
_lock = threading.RLock()
_spacings: list[int] = []
_before = 0  # the process' own threshold
_chosen = 0  # the one that is set instead


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No collection at all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def collection_spaced(tensors: int, size: int) -> Iterator[None]:
    """Fewer automatic collections while `tensors` of `size` bytes in all are handed out: one for
    256 MiB of them or 50,000 objects, if the process' own threshold asks for more.

    Calls of the process (gc.collect(), gc.disable(), another threshold) keep their effect.
    Any number may be active, in any threads.
    """
    if tensors < _FEW_TENSORS:
        yield
        return
    spacing = min(_MOST_OBJECTS, _BYTES_BETWEEN * tensors // max(1, size))
    _begin(spacing)
    try:
        yield
    finally:
        _end(spacing)


def _begin(spacing: int) -> None:
    global _before, _chosen
    with _lock, collection_paused():
        threshold, *older = gc.get_threshold()
        if not _spacings:
            _before = _chosen = threshold
        _spacings.append(spacing)
        if 0 < threshold == _chosen and spacing > threshold:
            _chosen = spacing
            gc.set_threshold(spacing, *older)


def _end(spacing: int) -> None:
    global _chosen
    with _lock, collection_paused():
        _spacings.remove(spacing)
        threshold, *older = gc.get_threshold()
        if threshold == _chosen:
            _chosen = max([_before, *_spacings]) if _before else 0
            gc.set_threshold(_chosen, *older)
