"""The element types of the safetensors format that this version of torch has."""

from __future__ import annotations

import torch

from runai_model_streamer._formats.safetensors.dtypes import TORCH_NAMES

# F6 kinds are in none: they are refused by name.
safetensors_to_torch_dtype: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name)
    for name, torch_name in TORCH_NAMES.items()
    if hasattr(torch, torch_name)
}
