"""Type hints that programs evaluate while they run."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed.device_mesh  # torch 2.3 does not import it by itself

import runai_model_streamer
from runai_model_streamer import FileChunks, SafetensorsStreamer, safe_open

MODULES = ("", ".numpy", ".dlpack", ".dcp", ".integrations")


def public(thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    """`thing`, and what a class has that is not private, or special."""
    yield name, inspect.unwrap(thing)
    if not inspect.isclass(thing):
        return
    for key, value in vars(thing).items():
        if key.startswith("_") and not (key.startswith("__") and key.endswith("__")):
            continue
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield f"{name}.{key}", inspect.unwrap(function)


@pytest.mark.parametrize("module", MODULES)
def test_every_hint_can_be_evaluated(module: str) -> None:
    found = importlib.import_module(f"{runai_model_streamer.__name__}{module}")
    hints = {}
    for name in found.__all__:
        thing = getattr(found, name)
        if callable(thing):
            for path, one in public(thing, name):
                hints[path] = typing.get_type_hints(one)
    assert any(hints.values())


def test_what_hints_are() -> None:
    describe = typing.get_type_hints(FileChunks)["describe"]
    assert torch.dtype in typing.get_args(typing.get_args(typing.get_args(describe)[0])[1])
    group = typing.get_type_hints(SafetensorsStreamer.stream_files)["process_group"]
    assert torch.distributed.ProcessGroup in typing.get_args(group)
    assert typing.get_type_hints(safe_open)["device"] == str | torch.device | int
