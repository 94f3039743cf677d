"""Selection of objects by patterns of their keys."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence


def matches(key: str, allow: Sequence[str] | None, ignore: Sequence[str] | None) -> bool:
    """True if `key` matches any pattern of `allow` (None: every key does) and none of `ignore`."""
    if allow is not None and not any(fnmatch.fnmatch(key, pattern) for pattern in allow):
        return False
    return ignore is None or not any(fnmatch.fnmatch(key, pattern) for pattern in ignore)
