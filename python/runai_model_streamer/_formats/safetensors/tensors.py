"""From ready bytes to tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from runai_model_streamer._device.dlpack import make_factory
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from runai_model_streamer._native_api import TensorFactory
from runai_model_streamer._session import Run


def create_torch_tensor(buffer: torch.Tensor, metadata: SafetensorMetadata) -> torch.Tensor:
    """The tensor that `metadata` describes, as a view of `buffer`: its bytes, of any shape."""
    dtype = metadata.get_torch_dtype()
    if metadata.start == metadata.end:
        return torch.empty(metadata.get_torch_shape(), dtype=dtype, device=buffer.device)
    flat = buffer.reshape(-1)
    if flat.data_ptr() % metadata.get_element_size() != 0:
        flat = flat.clone()
    return flat.view(dtype).view(metadata.get_torch_shape())


@functools.cache
def _factory() -> TensorFactory:
    return make_factory(safetensors_to_torch_dtype, {"F4": 2})


def tensors_of_run(
    run: Run, tensors: list[SafetensorMetadata], device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of each range of `run`; `tensors` are those of its request.

    Each tensor has a storage of its own: on the host, a part of the run's memory. What is yielded
    has no other reference.
    """
    data, check, first, count = run.data, run.check, run.first, run.count
    del run
    if data is None:
        pairs = [
            (tensor.name, _without_elements(tensor, device))
            for tensor in reversed(tensors[first : first + count])
        ]
    elif isinstance(data, list):
        names = [tensor.name for tensor in tensors[first : first + count]]
        pairs = list(zip(names, data, strict=True))[::-1]
        data.clear()
    else:
        pairs = _factory().tensors(data, tensors, first)
    del data
    moves = pairs[0][1].device.type != device.type
    while pairs:
        if check is not None:
            check()
        yield _moved(*pairs.pop(), device) if moves else pairs.pop()


def _moved(name: str, tensor: torch.Tensor, device: torch.device) -> tuple[str, torch.Tensor]:
    return name, tensor.to(device)


def _without_elements(tensor: SafetensorMetadata, device: torch.device) -> torch.Tensor:
    shape, dtype = tensor.get_torch_shape(), tensor.get_torch_dtype()
    return torch.empty(shape, dtype=dtype, device=device)
