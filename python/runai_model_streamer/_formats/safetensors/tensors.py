"""From ready bytes to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._session import Run, as_bytes


def create_torch_tensor(buffer: torch.Tensor, metadata: SafetensorMetadata) -> torch.Tensor:
    """The tensor that `metadata` describes, as a view of `buffer`: its bytes, of any shape."""
    dtype = metadata.get_torch_dtype()
    if metadata.start == metadata.end:
        return torch.empty(metadata.get_torch_shape(), dtype=dtype, device=buffer.device)
    flat = buffer.reshape(-1)
    if flat.data_ptr() % metadata.get_element_size() != 0:
        flat = flat.clone()
    return flat.view(dtype).view(metadata.get_torch_shape())


def tensors_of_run(
    run: Run, tensors: Sequence[SafetensorMetadata], device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of each range of `run`; `tensors` are those of its request.

    Each is a view of the run's memory, made by as few calls as possible: this is what a tensor of
    few bytes costs.
    """
    if run.count == 1:
        tensor = tensors[run.first]
        made_one = [(tensor.name, _only_tensor(run, tensor, device))]
        del run
        yield made_one.pop()  # the caller has the only reference
        return
    first, count, data, positions = run.first, run.count, run.data, run.positions
    check = run.check
    del run
    memory = None if data is None else as_bytes(data)
    del data
    # dtype name -> torch dtype, bytes of an element, the memory as that dtype, its start in it
    views: dict[str, tuple[torch.dtype, int, torch.Tensor | None, int]] = {}
    chosen = tensors[first : first + count]
    begin = 0
    while begin < count:
        tensor, position = chosen[begin], positions[begin]
        view = views.get(tensor.dtype)
        if view is None:
            view = views[tensor.dtype] = _typed(memory, tensor)
        dtype, width, whole, start = view
        shape = tensor.shape if tensor.dtype != "F4" else tensor.get_torch_shape()
        end = begin + 1
        made: Sequence[torch.Tensor]
        if tensor.start == tensor.end or whole is None:
            made = (torch.empty(shape, dtype=dtype, device=device),)
        else:
            start += position // width
            end = _end_of_stack(chosen, positions, begin)
            if end == begin + 1:
                made = (whole.as_strided(shape, _strides(shape), start),)
            else:
                made = _unstack(chosen[begin:end], whole, width, start)
        for index, value in enumerate(made, begin):
            if check is not None:
                check()
            yield chosen[index].name, value
        begin = end


def _only_tensor(run: Run, tensor: SafetensorMetadata, device: torch.device) -> torch.Tensor:
    shape, dtype = tensor.get_torch_shape(), tensor.get_torch_dtype()
    if run.data is None or tensor.start == tensor.end:
        return torch.empty(shape, dtype=dtype, device=device)
    return _typed_bytes(run.data, run.positions[0], dtype).view(shape)


def _end_of_stack(
    tensors: Sequence[SafetensorMetadata], positions: Sequence[int], begin: int
) -> int:
    """The end of those from `begin` on that follow one another in memory and differ in nothing but
    their first dimension: such are made by one call."""
    first = tensors[begin]
    if not first.shape or first.start == first.end:
        return begin + 1
    position = positions[begin] + first.end - first.start
    for end in range(begin + 1, len(tensors)):
        tensor = tensors[end]
        size = tensor.end - tensor.start
        if (
            size == 0
            or positions[end] != position
            or tensor.dtype != first.dtype
            or tensor.shape[1:] != first.shape[1:]
            or not tensor.shape
        ):
            return end
        position += size
    return len(tensors)


def _unstack(
    stack: Sequence[SafetensorMetadata], memory: torch.Tensor, width: int, start: int
) -> Sequence[torch.Tensor]:
    """The tensors of `stack` in `memory`, from its element `start` on, each of `width` bytes.

    "unsafe" means that autograd is not told of what they were split, which it need not know. Each
    takes a third of the time and half of the memory that a view takes.
    """
    shape = stack[0].get_torch_shape()
    strides = _strides(shape)
    row = strides[0] * width
    rows = [(tensor.end - tensor.start) // row for tensor in stack]
    whole = memory.as_strided((sum(rows), *shape[1:]), strides, start)
    return whole.unsafe_split_with_sizes(rows)


def _typed(
    memory: torch.Tensor | None, tensor: SafetensorMetadata
) -> tuple[torch.dtype, int, torch.Tensor | None, int]:
    dtype = tensor.get_torch_dtype()
    width = tensor.get_element_size()
    if memory is None:
        return dtype, width, None, 0
    whole = memory[: memory.numel() // width * width].view(dtype)
    return dtype, width, whole, int(whole.storage_offset())


def _typed_bytes(data: Any, start: int, dtype: torch.dtype) -> torch.Tensor:
    """The bytes from `start` on as a flat tensor of `dtype`."""
    if isinstance(data, torch.Tensor):
        return data[start:].view(dtype)
    try:
        return torch.frombuffer(data, dtype=dtype, offset=start)
    except (RuntimeError, ValueError):  # a dtype that it does not know
        return torch.frombuffer(data, dtype=torch.uint8, offset=start).view(dtype)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    if len(shape) == 1:
        return (1,)
    if len(shape) == 2:
        return (shape[1], 1)
    strides = []
    stride = 1
    for dimension in reversed(shape):
        strides.append(stride)
        stride *= dimension
    return tuple(reversed(strides))
