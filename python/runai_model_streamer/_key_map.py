"""Checkpoints whose names and layouts are not those of the model: renamed and fused tensors."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import SupportsIndex

import torch

from runai_model_streamer._dtensor import is_dtensor, local_part
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, of_file
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata, check_tensors
from runai_model_streamer._formats.safetensors.slices import SliceIndex, resolve_index
from runai_model_streamer._spans import Along

_Item = SupportsIndex | slice | EllipsisType
TargetIndex = _Item | tuple[_Item, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """The place of a tensor of a checkpoint in a model, for the `key_map` of load_model()."""

    name: str
    """Of the parameter or the buffer."""
    index: TargetIndex | None = None
    """The part of it that the tensor fills: numbers, and slices with steps of 1, of the leading
    dimensions. None: all of it. Of a DTensor, that of the whole tensor."""
    source: SliceIndex | None = None
    """The part of the checkpoint's tensor that is read. None: all of it."""


Places = Mapping[str, tuple[str, SafetensorMetadata]]
"""The path of the file and the tensor of each name of a checkpoint."""

KeyMap = Callable[[str], str | Target | None]


def map_names(places: Places, key_map: KeyMap) -> dict[str, Target]:
    """The target of each name of a checkpoint that has one."""
    targets = {}
    for name, (path, _) in places.items():
        target = key_map(name)
        if target is None:
            continue
        if isinstance(target, str):
            target = Target(target)
        if not isinstance(target, Target):
            raise RunaiStreamerInvalidInputException(
                f"{path}: key_map: {name!r} is mapped to a {type(target).__name__}: it takes a "
                "name, a Target or None",
                path=path,
            )
        targets[name] = target
    return targets


@dataclasses.dataclass(frozen=True)
class Piece:
    """The part that this rank takes of one tensor of a checkpoint."""

    name: str
    """Of the tensor in the checkpoint."""
    path: str
    """Of its file."""
    source: list[Along]
    """The range of each of its dimensions that is read."""
    box: list[Along]
    """The place of that range in each dimension of the model's local tensor."""
    dropped: list[int]
    """Dimensions of the model's tensor that the checkpoint's has not."""

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        """The part of `memory`, the model's local tensor, that this fills."""
        view = memory.detach()
        for dimension, along in enumerate(self.box):
            view = view.narrow(dimension, along.start, along.width)
        for dimension in reversed(self.dropped):
            view = view.select(dimension, 0)
        return view


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A tensor of the model that is made of parts of the checkpoint's tensors."""

    described: SafetensorMetadata
    """The tensor of the model, as an entry of the checkpoint."""
    pieces: list[Piece]


def group_by_target(
    targets: Mapping[str, Target], places: Places
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The tensors that fill a tensor of the model alone, and those that are parts of one: the names
    in the checkpoint, by the name in the model."""
    alone: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for name, target in targets.items():
        if target.index is not None or target.source is not None:
            parts.setdefault(target.name, []).append(name)
        elif target.name in alone:
            path = places[name][0]
            raise RunaiStreamerInvalidInputException(
                f"{path}: key_map: {alone[target.name]!r} and {name!r} are both mapped to "
                f"{target.name!r}",
                path=path,
            )
        else:
            alone[target.name] = name
    for name in alone.keys() & parts.keys():
        path = places[parts[name][0]][0]
        raise RunaiStreamerInvalidInputException(
            f"{path}: key_map: {alone[name]!r} fills all of {name!r}, and {parts[name][0]!r} a "
            "part of it",
            path=path,
        )
    return alone, parts


def assemble(
    own: torch.Tensor,
    names: Sequence[str],
    targets: Mapping[str, Target],
    places: Places,
) -> Assembly:
    """The assembly of `own`, a tensor of the model, from the tensors `names` of the checkpoint.

    Raises with the path of the file of one of them.
    """
    target, first = targets[names[0]].name, places[names[0]][1]
    for name in names:
        path, tensor = places[name]
        check_tensors([tensor], path)
        if tensor.dtype != first.dtype:
            raise RunaiStreamerInvalidInputException(
                f"{path}: key_map: the parts of {target!r} have the dtypes {first.dtype} "
                f"({names[0]!r}) and {tensor.dtype} ({name!r})",
                path=path,
            )
    path = places[names[0]][0]
    held = local_part(own) if is_dtensor(own) else [Along(0, size) for size in own.shape]
    if held is None or any(along.count > 1 for along in held):
        raise RunaiStreamerInvalidInputException(
            f"{path}: key_map: {target!r} is a DTensor whose placements leave no single part to "
            "this rank",
            path=path,
        )
    pieces, boxes = [], []
    for name in names:
        path, tensor = places[name]
        try:
            box, dropped, source = _fit(own, target, name, tensor, targets[name])
        except RunaiStreamerInvalidInputException as error:
            raise of_file(error, path) from None
        boxes.append((name, box))
        inside = [_common(one, other) for one, other in zip(box, held, strict=True)]
        if any(along.width == 0 for along in inside):
            continue
        kept = [dimension for dimension in range(len(box)) if dimension not in dropped]
        for number, dimension in enumerate(kept):
            moved = source[number].start + inside[dimension].start - box[dimension].start
            source[number] = Along(moved, inside[dimension].width)
        local = [
            Along(along.start - other.start, along.width)
            for along, other in zip(inside, held, strict=True)
        ]
        pieces.append(Piece(name, path, source, local, dropped))
    _check_boxes(target, own, boxes, places)
    shape = tuple(own.shape)
    if first.dtype == "F4" and shape:
        shape = (*shape[:-1], shape[-1] * 2)
    size = own.numel() * first.get_element_size()
    return Assembly(SafetensorMetadata(target, shape, first.dtype, 0, size), pieces)


def _fit(
    own: torch.Tensor, target: str, name: str, tensor: SafetensorMetadata, wanted: Target
) -> tuple[list[Along], list[int], list[Along]]:
    """The result of _box() for `own`, the tensor `target` of the model, and the part that is read
    of `tensor`, which is `name` in the checkpoint."""
    try:
        box, dropped = _box(target, own.shape, wanted.index)
    except RunaiStreamerInvalidInputException as error:
        raise RunaiStreamerInvalidInputException(f"{error}, for {name!r}") from None
    index = ... if wanted.source is None else wanted.source
    source = resolve_index(name, tensor.get_torch_shape(), index)
    place = [along.width for dimension, along in enumerate(box) if dimension not in dropped]
    if [along.width for along in source] != place:
        raise RunaiStreamerInvalidInputException(
            f"key_map: {name!r} gives a part of shape {[along.width for along in source]}, the "
            f"part of {target!r} has {place}"
        )
    return box, dropped, source


def _box(
    name: str, shape: Sequence[int], index: TargetIndex | None
) -> tuple[list[Along], list[int]]:
    """The part that `index` takes of each dimension, and the dimensions reduced to one element."""
    items = list(index) if isinstance(index, tuple) else [... if index is None else index]
    rest = [number for number, item in enumerate(items) if item is Ellipsis]
    if len(rest) == 1:
        missing = len(shape) - len(items) + 1
        items[rest[0] : rest[0] + 1] = [slice(None)] * max(0, missing)
    dropped = []
    for dimension, item in enumerate(items):
        if isinstance(item, slice) or dimension >= len(shape):
            continue
        try:
            row = operator.index(item)  # type: ignore[arg-type]
        except TypeError:
            continue  # resolve_index() raises
        if not -shape[dimension] <= row < shape[dimension]:
            raise RunaiStreamerInvalidInputException(
                f"key_map: index {row} is out of range for dimension {dimension} of {name!r} with "
                f"size {shape[dimension]}"
            )
        row %= shape[dimension]
        items[dimension] = slice(row, row + 1)
        dropped.append(dimension)
    return resolve_index(name, shape, tuple(items)), dropped  # type: ignore[arg-type]


def _common(one: Along, other: Along) -> Along:
    start = max(one.start, other.start)
    return Along(start, max(0, min(one.start + one.width, other.start + other.width) - start))


def _check_boxes(
    name: str, own: torch.Tensor, boxes: Sequence[tuple[str, list[Along]]], places: Places
) -> None:
    """Raises if parts overlap, or leave something out."""
    by_start = sorted(boxes, key=lambda box: [along.start for along in box[1]])
    for (first, one), (second, other) in itertools.pairwise(by_start):
        if all(_common(a, b).width for a, b in zip(one, other, strict=True)):
            path = places[second][0]
            raise RunaiStreamerInvalidInputException(
                f"{path}: key_map: {first!r} and {second!r} fill the same elements of {name!r}",
                path=path,
            )
    filled = sum(math.prod(along.width for along in box) for _, box in boxes)
    if filled != own.numel():
        path = places[boxes[0][0]][0]
        raise RunaiStreamerInvalidInputException(
            f"{path}: key_map: the tensors of the checkpoint fill {filled} of {own.numel()} "
            f"elements of {name!r}",
            path=path,
        )
