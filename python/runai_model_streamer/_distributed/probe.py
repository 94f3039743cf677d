"""The part of some files that the page cache of this node holds."""

from __future__ import annotations

from collections.abc import Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import StreamerError
from runai_model_streamer._paths import is_remote, to_native

_FILES = 32
# From here on a read is a copy: a rank makes it faster by itself than by way of others.
CACHED_THRESHOLD = 0.95


def cached_fraction(paths: Sequence[str]) -> float:
    """The part of `paths` that reading would not fetch from storage; a sample of many files.

    0 for objects, and for a file that can't be opened: the load reports the reason.
    """
    if not paths or any(is_remote(path) for path in paths):
        return 0.0
    sample = paths[:: max(1, len(paths) // _FILES)]
    try:
        return sum(native.cached_fraction(to_native(path)) for path in sample) / len(sample)
    except StreamerError:
        return 0.0
