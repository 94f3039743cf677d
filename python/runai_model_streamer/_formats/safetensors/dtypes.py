"""The element types of the safetensors format."""

from __future__ import annotations

import torch

from runai_model_streamer._native_api import safetensors_dtype_bits

# Bytes of one element of the torch dtype, which holds two of F4.
ELEMENT_BYTES = {name: max(1, bits // 8) for name, bits in safetensors_dtype_bits.items()}

_TORCH_NAMES = {
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

# Those that this torch has. F6 kinds are in none: they are refused by name.
safetensors_to_torch_dtype: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name)
    for name, torch_name in _TORCH_NAMES.items()
    if hasattr(torch, torch_name)
}


def torch_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the torch tensor: two F4 elements are one of torch's."""
    if dtype != "F4":
        return shape
    return (*shape[:-1], shape[-1] // 2)
