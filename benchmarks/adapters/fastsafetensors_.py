"""fastsafetensors without GPUDirect Storage: whole files into one buffer each."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import torch
from fastsafetensors import SafeTensorsFileLoader, SingleGroup

MODULE = "fastsafetensors"


def version() -> str:
    return importlib.metadata.version("fastsafetensors")


def iterate(files: list[str], options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    device = options.get("device", "cpu")
    loader = SafeTensorsFileLoader(SingleGroup(), device=device, nogds=True)
    try:
        loader.add_filenames({0: files})
        buffer = loader.copy_files_to_device()
        try:
            for name in buffer.key_to_rank_lidx:
                yield name, buffer.get_tensor(name)
        finally:
            buffer.close()
    finally:
        loader.close()
