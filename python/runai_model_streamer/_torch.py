"""torch for modules that work without it: imported when something of it is used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING


class _Torch(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)  # a search for these looks at every module
        return getattr(importlib.import_module("torch"), name)


if TYPE_CHECKING:
    import torch
else:
    # typing.get_type_hints() finds it, too, in the globals of such a module.
    torch = _Torch("torch")


def device_of(device: str | torch.device | int) -> torch.device:
    """`device`; a number is the ordinal of a CUDA device."""
    return torch.device(f"cuda:{device}" if isinstance(device, int) else device)
