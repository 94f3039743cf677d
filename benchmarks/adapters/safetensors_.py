"""safetensors: memory-mapped files, tensors in file order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import safe_open

MODULE = "safetensors"


def version() -> str:
    return str(safetensors.__version__)


def iterate(files: list[str], options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    device = options.get("device", "cpu")
    for path in files:
        with safe_open(path, framework="pt", device=device) as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)


def load_file(path: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)
