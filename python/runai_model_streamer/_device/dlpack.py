"""Tensors over memory of the engine, each with a storage of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.dlpack_types import BYTE, DLPACK_TYPES


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
        kind = DLPACK_TYPES.get(str(dtype).removeprefix("torch."))
        if kind is not None:
            factory.add_type(name, *kind, count)
        if kind is None or not _is_taken(factory, name, dtype, count):
            width = torch.empty(0, dtype=dtype, device="cpu").element_size()
            factory.add_type(name, BYTE, 8, width, count, convert(name))
    return factory


def _is_taken(factory: native.TensorFactory, name: str, dtype: torch.dtype, packed: int) -> bool:
    """True if this torch takes tensors of `dtype` as they are."""
    try:
        tensor = factory.tensor(native.Buffer.allocate([64]), 0, name, (packed,))
    except (RuntimeError, BufferError, TypeError, ValueError):
        return False
    return bool(tensor.dtype == dtype and tensor.shape == (1,))


@functools.cache
def byte_factory() -> native.TensorFactory:
    """A factory of tensors of bytes, whose type is "U8"."""
    return make_factory({"U8": torch.uint8})
