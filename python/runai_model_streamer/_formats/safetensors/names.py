"""Names of tensors, and patterns of names, as arguments give them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from runai_model_streamer._errors import RunaiStreamerInvalidInputException

_PATTERN = "*?["


def may_have_pattern(keys: Iterable[str]) -> bool:
    """True if one of `keys` fits other names than itself, if no tensor has it as its name."""
    text = "\n".join(keys)
    return any(sign in text for sign in _PATTERN)


def matching(names: Iterable[str], key: str) -> list[str]:
    """Those of `names` that fit the pattern `key`; none if it is no pattern."""
    return fnmatch.filter(names, key) if may_have_pattern([key]) else []


def refuse_missing(argument: str, missing: Sequence[str]) -> None:
    """Raises if there are names of `argument` that no tensor has."""
    if missing:
        shown = ", ".join(repr(name) for name in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RunaiStreamerInvalidInputException(
            f"{argument}: the files have no tensor {shown}{more}"
        )
