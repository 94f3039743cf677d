"""The element types of the safetensors format that this version of torch has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runai_model_streamer._errors import StreamerUnsupportedError
from runai_model_streamer._formats.safetensors.dtypes import TORCH_NAMES
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata

# F6 kinds are in none: they are refused by name.
safetensors_to_torch_dtype: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name)
    for name, torch_name in TORCH_NAMES.items()
    if hasattr(torch, torch_name)
}


def check_tensors(tensors: Sequence[SafetensorMetadata], path: str) -> None:
    """Raises if this version of torch has no tensor for one of `tensors` of the file at `path`."""
    for tensor in {tensor.dtype: tensor for tensor in tensors}.values():
        if tensor.dtype not in safetensors_to_torch_dtype:
            raise StreamerUnsupportedError(
                f"{path}: Unsupported dtype '{tensor.dtype}' of tensor '{tensor.name}'",
                code="unsupported",
                path=path,
            )
        if tensor.dtype == "F4":
            _check_pairs(tensors, path)


def _check_pairs(tensors: Sequence[SafetensorMetadata], path: str) -> None:
    for tensor in tensors:
        if tensor.dtype == "F4" and (not tensor.shape or tensor.shape[-1] % 2 != 0):
            raise StreamerUnsupportedError(
                f"{path}: tensor '{tensor.name}' of F4 has the shape {list(tensor.shape)}: torch "
                "holds pairs of F4, so that its last dimension must be even",
                code="unsupported",
                path=path,
            )
