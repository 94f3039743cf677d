"""Names of tensors, and patterns of names, as arguments give them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from runai_model_streamer._errors import RunaiStreamerInvalidInputException

_PATTERN = frozenset("*?[")


def may_be_pattern(key: str) -> bool:
    """Whether `key` fits other names than itself, where no tensor has it as its name."""
    return not _PATTERN.isdisjoint(key)


def matching(names: Iterable[str], key: str) -> list[str]:
    """Those of `names` that fit the pattern `key`; none if it is no pattern."""
    return fnmatch.filter(names, key) if may_be_pattern(key) else []


def refuse_missing(argument: str, missing: Sequence[str]) -> None:
    """Raises if there are names of `argument` that no tensor has."""
    if missing:
        shown = ", ".join(repr(name) for name in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RunaiStreamerInvalidInputException(
            f"{argument}: the files have no tensor {shown}{more}"
        )
