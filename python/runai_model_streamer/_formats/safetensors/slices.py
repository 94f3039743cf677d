"""The parts of tensors that a caller selects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar

from runai_model_streamer._errors import RunaiStreamerInvalidInputException, of_file
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.names import matching, refuse_missing
from runai_model_streamer._spans import Along, Spans, spans_of

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch

SliceIndex = slice | EllipsisType | tuple[slice | EllipsisType, ...]
"""As numpy writes it: of the leading dimensions, with steps of 1. ``...`` is all of them."""
Dtype = TypeVar("Dtype")
SlicesOf = (
    Mapping[str, SliceIndex | None] | Callable[[str, tuple[int, ...], Dtype], SliceIndex | None]
)
# Not SlicesOf["torch.dtype"], which Python 3.11 makes to another Callable.
Slices = (
    Mapping[str, SliceIndex | None]
    | Callable[[str, tuple[int, ...], "torch.dtype"], SliceIndex | None]
)
Tensors = list[list[SafetensorMetadata]]


class TensorPart(SafetensorMetadata):
    """A part of a tensor. `shape` is its own, and [start, end) has as many bytes as it has: they
    are those of the file if `strides` is None, else `start` is that of the first one."""

    __slots__ = ("part", "strides", "whole")

    def __init__(self, whole: SafetensorMetadata, part: Sequence[Along], spans: Spans) -> None:
        shape = [along.size for along in part]
        if whole.dtype == "F4":
            shape[-1] *= 2
        start = whole.start + spans.start
        super().__init__(whole.name, shape, whole.dtype, start, start + spans.size)
        self.whole = whole
        self.part = part
        self.strides = (spans.run, list(spans.levels)) if spans.levels else None

    def __reduce__(self) -> tuple[Callable[..., SafetensorMetadata], tuple[object, ...]]:
        return part_of, (self.whole, self.part)


def part_of(tensor: SafetensorMetadata, part: Sequence[Along]) -> SafetensorMetadata:
    """The part of `tensor` that `part` selects of each dimension of torch's shape. The tensor
    itself if that is all of it."""
    shape = tensor.get_torch_shape()
    if all(along.width == size for along, size in zip(part, shape, strict=True)):
        return tensor
    return TensorPart(tensor, part, spans_of(shape, tensor.get_element_size(), part))


def narrow(tensor: SafetensorMetadata, part: Sequence[Along]) -> SafetensorMetadata:
    """`part` of `tensor`, which may be a part itself, as take_slices() makes them."""
    if not isinstance(tensor, TensorPart):
        return part_of(tensor, part)
    inner = [one.within(outer.start) for one, outer in zip(part, tensor.part, strict=True)]
    return part_of(tensor.whole, inner)


def whole_of(shape: Sequence[int]) -> list[Along]:
    return [Along(0, size) for size in shape]


def along(name: str, dimension: int, size: int, index: Any) -> Along:
    """The part of a dimension of `size` elements in the slice `index`, clipped as numpy does."""
    if not isinstance(index, slice):
        raise RunaiStreamerInvalidInputException(
            f"slices: the index of {name!r} has a {type(index).__name__} for dimension "
            f"{dimension}: it takes slices"
        )
    try:
        start, stop, step = index.indices(size)
    except (TypeError, ValueError):
        raise RunaiStreamerInvalidInputException(
            f"slices: the bounds of {name!r} in dimension {dimension} are not whole numbers, or "
            "the step is 0"
        ) from None
    if step != 1:
        raise RunaiStreamerInvalidInputException(
            f"slices: the index of {name!r} has a step of {step} in dimension {dimension}: only 1 "
            "is possible"
        )
    return Along(start, max(0, stop - start))


def resolve_index(name: str, shape: Sequence[int], index: object) -> list[Along]:
    """The part of each dimension of `shape` in `index`."""
    parts = list(index) if isinstance(index, tuple) else [index]
    rest = [number for number, part in enumerate(parts) if part is Ellipsis]
    if len(rest) > 1:
        raise RunaiStreamerInvalidInputException(
            f"slices: the index of {name!r} has more than one '...'"
        )
    given = len(parts) - len(rest)
    if given > len(shape):
        raise RunaiStreamerInvalidInputException(
            f"slices: the index of {name!r} has {given} dimensions, the tensor {len(shape)}"
        )
    if rest:
        parts[rest[0] : rest[0] + 1] = [slice(None)] * (len(shape) - given)
    parts += [slice(None)] * (len(shape) - len(parts))
    return [
        along(name, dimension, size, part)
        for dimension, (size, part) in enumerate(zip(shape, parts, strict=True))
    ]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The selected part of each dimension, by the name of the tensor. Others are read whole."""

    parts: Mapping[str, Sequence[Along]]


def take_slices(
    files: Tensors,
    paths: Sequence[str],
    slices: SlicesOf[Any] | Parts | None,
    dtype_of: Callable[[SafetensorMetadata], object] = SafetensorMetadata.get_torch_dtype,
) -> Tensors:
    """`files`, which are at `paths`, with the wanted part of each tensor, and without those that
    are not wanted. A function of the caller gets the dtype as `dtype_of` gives it."""
    if slices is None:
        return files
    if isinstance(slices, Parts):
        parts = slices.parts
        return [
            [part_of(one, parts[one.name]) if one.name in parts else one for one in file]
            for file in files
        ]
    if callable(slices):
        chosen: Callable[[SafetensorMetadata], object] = lambda tensor: slices(  # noqa: E731
            tensor.name, tensor.get_torch_shape(), dtype_of(tensor)
        )
    elif isinstance(slices, Mapping):
        chosen = _by_pattern(slices, {tensor.name for file in files for tensor in file})
    else:
        raise RunaiStreamerInvalidInputException(
            f"slices takes a mapping of names to indices or a function, not {type(slices).__name__}"
        )
    return [
        [_part_at(path, tensor, index) for tensor in file if (index := chosen(tensor)) is not None]
        for path, file in zip(paths, files, strict=True)
    ]


def _part_at(path: str, tensor: SafetensorMetadata, index: object) -> SafetensorMetadata:
    shape = tensor.get_torch_shape()
    try:
        part = resolve_index(tensor.name, shape, index)
    except RunaiStreamerInvalidInputException as error:
        raise of_file(error, path) from None
    return part_of(tensor, part)


def _by_pattern(
    slices: Mapping[str, SliceIndex | None], names: set[str]
) -> Callable[[SafetensorMetadata], object]:
    """The index of each tensor: that of its name, else of the first pattern that fits, else all."""
    indices: dict[str, object] = {}
    missing = []
    for key, index in slices.items():
        if not isinstance(key, str):
            raise RunaiStreamerInvalidInputException(f"slices: {key!r} is not text")
        if key in names:
            continue
        found = matching(names, key)
        for name in found:
            indices.setdefault(name, index)
        if not found:
            missing.append(key)
    refuse_missing("slices", missing)
    indices.update((name, index) for name, index in slices.items() if name in names)
    return lambda tensor: indices.get(tensor.name, Ellipsis)
