"""InstantTensor: all files in one call, tensors of the caller's own."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import torch
from instanttensor import safe_open

MODULE = "instanttensor"


def version() -> str:
    return importlib.metadata.version("instanttensor")


def _device(options: dict[str, Any]) -> int:
    return torch.device(options["device"]).index or 0


def iterate(files: list[str], options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(files, framework="pt", device=_device(options)) as file:
        yield from file.tensors()


def into(files: list[str], params: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    """Its documented way to fill parameters: views of its buffer, copied on the device."""
    with safe_open(files, framework="pt", device=_device(options), copy=False) as file:
        for name, tensor in file.tensors():
            params[name].copy_(tensor)
