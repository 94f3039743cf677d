"""Tensors over memory of the engine, each with a storage of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch

from runai_model_streamer import _native_api as native

# Code, bits and lanes of an element: https://dmlc.github.io/dlpack/latest/c_api.html
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_TYPES = {
    "bool": (_BOOL, 8, 1),
    "uint8": (_UINT, 8, 1),
    "int8": (_INT, 8, 1),
    "uint16": (_UINT, 16, 1),
    "int16": (_INT, 16, 1),
    "float16": (_FLOAT, 16, 1),
    "bfloat16": (_BFLOAT, 16, 1),
    "uint32": (_UINT, 32, 1),
    "int32": (_INT, 32, 1),
    "float32": (_FLOAT, 32, 1),
    "complex64": (_COMPLEX, 64, 1),
    "uint64": (_UINT, 64, 1),
    "int64": (_INT, 64, 1),
    "float64": (_FLOAT, 64, 1),
    "float8_e4m3fn": (10, 8, 1),
    "float8_e4m3fnuz": (11, 8, 1),
    "float8_e5m2": (12, 8, 1),
    "float8_e5m2fnuz": (13, 8, 1),
    "float8_e8m0fnu": (14, 8, 1),
    "float4_e2m1fn_x2": (17, 4, 2),
}


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    return tuple(math.prod(shape[dimension + 1 :]) for dimension in range(len(shape)))


def make_factory(
    dtypes: Mapping[str, torch.dtype], packed: Mapping[str, int] | None = None
) -> native.TensorFactory:
    """A factory of tensors of `dtypes`, by their names in a format.

    Elements that a format packs more closely than torch have an entry in `packed`: so many of them,
    along the last dimension, are one element of torch.
    """
    packed = packed or {}

    def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        count = packed.get(name, 1)
        return shape if count == 1 else (*shape[:-1], shape[-1] // count)

    def make_empty(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(torch_shape(name, shape), dtype=dtypes[name], device="cpu")

    def convert(name: str) -> Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]:
        def from_bytes(flat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
            shape = torch_shape(name, shape)
            empty = torch.empty(0, dtype=dtypes[name], device="cpu")
            return empty.set_(flat.untyped_storage(), 0, shape, strides_of(shape))

        return from_bytes

    factory = native.TensorFactory(torch._C._from_dlpack, make_empty)
    for name, dtype in dtypes.items():
        count = packed.get(name, 1)
        kind = _TYPES.get(str(dtype).removeprefix("torch."))
        if kind is not None:
            factory.add_type(name, *kind, count)
        if kind is None or not _is_taken(factory, name, dtype, count):
            width = torch.empty(0, dtype=dtype, device="cpu").element_size()
            factory.add_type(name, _UINT, 8, width, count, convert(name))
    return factory


def _is_taken(factory: native.TensorFactory, name: str, dtype: torch.dtype, packed: int) -> bool:
    """Whether this torch takes tensors of `dtype` as they are."""
    try:
        tensor = factory.tensor(native.Buffer.allocate([64]), 0, name, (packed,))
    except (RuntimeError, BufferError, TypeError, ValueError):
        return False
    return bool(tensor.dtype == dtype and tensor.shape == (1,))


@functools.cache
def byte_factory() -> native.TensorFactory:
    """A factory of tensors of bytes, whose type is "U8"."""
    return make_factory({"U8": torch.uint8})
