"""This package, by the calls that the original's users make, and by `into`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

import runai_model_streamer
from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer import _native_api as native

MODULE = "runai_model_streamer"
_last: dict[str, Any] = {}


def version() -> str:
    return str(native.version())


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "device": options.get("device", "cpu"),
        "is_distributed": options.get("distributed", False),
    }


def _remember(streamer: SafetensorsStreamer) -> None:
    _last.clear()
    _last.update(dataclasses.asdict(streamer.stats()))


def _streamer(options: dict[str, Any]) -> SafetensorsStreamer:
    streamer = SafetensorsStreamer()
    if options.get("alone"):
        from benchmarks.group_of_one import share_with_nobody

        share_with_nobody(streamer, options["device"])
    return streamer


def iterate(files: list[str], options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    with _streamer(options) as streamer:
        streamer.stream_files(files, **_arguments(options))
        yield from streamer.get_tensors()
        _remember(streamer)


def into(files: list[str], params: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    with _streamer(options) as streamer:
        streamer.stream_files(files, into=params, **_arguments(options))
        for _ in streamer.get_tensors():
            pass
        _remember(streamer)


def load_file(path: str) -> dict[str, torch.Tensor]:
    return runai_model_streamer.load_file(path)


def stats() -> dict[str, Any]:
    return dict(_last)
