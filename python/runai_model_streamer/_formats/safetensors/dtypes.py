"""The element types of the safetensors format, by their names there. Needs no torch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from runai_model_streamer._native_api import safetensors_dtype_bits

if TYPE_CHECKING:
    import torch

# Bytes of one element of the torch dtype, which holds two of F4.
ELEMENT_BYTES = {name: max(1, bits // 8) for name, bits in safetensors_dtype_bits.items()}

TORCH_NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


@functools.cache
def torch_dtype(dtype: str) -> torch.dtype | None:
    """The dtype of torch; None if this version of torch has none."""
    import torch

    found: object = getattr(torch, TORCH_NAMES.get(dtype, ""), None)
    return found if isinstance(found, torch.dtype) else None


def torch_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the torch tensor: two F4 elements are one of torch's."""
    if dtype != "F4":
        return shape
    return (*shape[:-1], shape[-1] // 2)
