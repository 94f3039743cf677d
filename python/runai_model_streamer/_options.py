"""The options of one streamer, instead of the settings of the environment."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._settings import former_names

# Settings of these are read once for a process, or if there is no streamer.
_OF_THE_PROCESS = ("Distributed", "GPU", "Logging", "Verification", "Ignored")
_CALLER = 5  # frames from a check to the caller of SafetensorsStreamer()
_ARGUMENTS = {
    "RUNAI_STREAMER_MEMORY_LIMIT": "memory_limit",
    "RUNAI_STREAMER_CONCURRENCY": "concurrency",
    "RUNAI_STREAMER_OBJ_CONCURRENCY": "concurrency",
    "RUNAI_STREAMER_CHUNK_BYTESIZE": "chunk_bytes",
    "RUNAI_STREAMER_FS_STRATEGY": "fs_strategy",
}


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """If it is None, or `settings` lacks a name, the environment decides when a load starts."""

    memory_limit: int | None = None
    concurrency: int | None = None
    chunk_bytes: int | None = None
    fs_strategy: str | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("memory_limit", "concurrency", "chunk_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise RunaiStreamerInvalidInputException(f"{name} is a number, not {value!r}")
        if self.fs_strategy is not None and not isinstance(self.fs_strategy, str):
            raise RunaiStreamerInvalidInputException(
                f"fs_strategy is text, not {type(self.fs_strategy).__name__}"
            )
        if self.settings:
            self._check_settings()

    def _check_settings(self) -> None:
        groups = {row["name"]: row["group"] for row in native.settings_table()}
        formers = former_names()
        for given, value in self.settings.items():
            name = formers.get(given, given)
            if name != given:
                warnings.warn(
                    f"the setting {given} is deprecated: use {name}",
                    DeprecationWarning,
                    stacklevel=_CALLER,
                )
            if name in _ARGUMENTS:
                raise RunaiStreamerInvalidInputException(
                    f"settings: give {name} as the argument {_ARGUMENTS[name]}"
                )
            if name not in groups or groups[name] in _OF_THE_PROCESS:
                raise RunaiStreamerInvalidInputException(
                    f"settings: {name!r} is not a setting of one streamer"
                )
            if not isinstance(value, str):
                raise RunaiStreamerInvalidInputException(f"settings: the value of {name} is text")

    def to_native(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("concurrency", "chunk_bytes", "fs_strategy")
            if getattr(self, name) is not None
        }
        if self.memory_limit is not None:
            chosen["memory_limit"] = native.MemoryLimit.from_setting(self.memory_limit)
        if self.settings:
            chosen["source"] = dict(self.settings)
        return chosen


DEFAULTS = StreamOptions()
