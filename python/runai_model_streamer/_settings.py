"""The present settings as text: values and their sources."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Mapping, Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import StreamerError, shown_path, shown_text

_PREFIX = "RUNAI_STREAMER_"
_LIKENESS = 0.6  # of a name that may be meant, from 0 to 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of docs/reference/environment.md, as this process has it."""

    name: str
    group: str
    value: str | None
    """Without secrets; None: not set."""
    source: str
    """environment or default."""
    default: str
    accepted: str
    summary: str
    problem: str | None = None
    """The reason why the value can't be used."""


def current_settings() -> list[Setting]:
    """Every setting, in the order of the table."""
    return [_current(row) for row in native.settings_table()]


def _current(row: Mapping[str, str]) -> Setting:
    name = row["name"]
    raw = os.environ.get(name) or os.environ.get(row["former_name"]) or None
    problem = None
    if raw is not None:
        try:
            native.setting(name)
        except StreamerError as error:
            problem = str(error)
    return Setting(
        name=name,
        group=row["group"],
        value=None if raw is None else _masked(name, row["type"], raw),
        source="default" if raw is None else "environment",
        default=row["default"],
        accepted=row["accepted"],
        summary=row["summary"],
        problem=problem,
    )


def _masked(name: str, kind: str, value: str) -> str:
    if kind == "secret":
        return f"*** ({len(value)} characters)"
    if name == "AWS_ACCESS_KEY_ID":
        return native.shown_access_key(value)
    if name.lower().endswith("_proxy") and name.lower() != "no_proxy":
        scheme, mark, rest = value.rpartition("://")
        value = scheme + mark + rest.rpartition("@")[2]  # without the user and the password
    return shown_text(shown_path(value))


@functools.cache
def former_names() -> Mapping[str, str]:
    """The names of settings by their deprecated names."""
    return {
        row["former_name"]: row["name"] for row in native.settings_table() if row["former_name"]
    }


@functools.cache
def _names() -> Sequence[str]:
    return [row["name"] for row in native.settings_table()]


def unknown_settings() -> list[tuple[str, str | None]]:
    """Variables of the environment that have the prefix of settings but are unknown, each with the
    most similar name; None: no name is similar."""
    ours = [name for name in _names() if name.startswith(_PREFIX)]
    known = {*_names(), *former_names()}
    found: list[tuple[str, str | None]] = []
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, ours, n=1, cutoff=_LIKENESS)
            # The prefix alone makes names alike.
            if nearest and _alike(name, nearest[0]) < _LIKENESS:
                nearest = []
            found.append((shown_text(name), nearest[0] if nearest else None))
    return found


def _alike(one: str, other: str) -> float:
    rest = one.removeprefix(_PREFIX), other.removeprefix(_PREFIX)
    return difflib.SequenceMatcher(None, *rest).ratio()
