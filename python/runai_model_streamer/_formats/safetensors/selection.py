"""Which tensors of the files are wanted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    shown_path,
)
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata
from runai_model_streamer._formats.safetensors.names import matching, refuse_missing

TensorNames = Iterable[str] | Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class NamesOfFiles:
    """The wanted names of each file, by its path. Files may have further tensors of these names."""

    names: Mapping[str, Container[str]]


Tensors = list[list[SafetensorMetadata]]
Selection = TensorNames | NamesOfFiles


def select(files: Sequence[SafetensorsMetadata], wanted: Selection | None) -> Tensors:
    """The wanted tensors of each of `files`.

    `wanted`: names and glob patterns (``*``, ``?``, ``[...]``, over the whole name), or a function
    from a name to whether it is wanted; None is everything. A name or pattern without a tensor,
    and a name that stands in two files, is an error.
    """
    if isinstance(wanted, NamesOfFiles):
        return [_named(file, wanted.names.get(file.path, ())) for file in files]
    return _select(files, wanted)


def _named(file: SafetensorsMetadata, names: Container[str]) -> list[SafetensorMetadata]:
    return [tensor for tensor in file.tensors_metadata if tensor.name in names]


def _select(headers: Sequence[SafetensorsMetadata], wanted: TensorNames | None) -> Tensors:
    files = [file.tensors_metadata for file in headers]
    if wanted is None:
        return [list(file) for file in files]
    if callable(wanted):
        return [[tensor for tensor in file if wanted(tensor.name)] for file in files]
    names = _checked_names(wanted)
    counts = Counter(tensor.name for file in files for tensor in file)
    chosen: set[str] = set()
    missing = []
    for name in names:
        if name in counts:
            chosen.add(name)
            continue
        matches = matching(counts, name)
        if not matches:
            missing.append(name)
        chosen.update(matches)
    refuse_missing("tensor_names", missing)
    twice = sorted(name for name in chosen if counts[name] > 1)
    if twice:
        first, second = [
            file.path
            for file in headers
            for tensor in file.tensors_metadata
            if tensor.name == twice[0]
        ][:2]
        raise RunaiStreamerInvalidInputException(
            f"{second}: tensor_names: {twice[0]!r} is in more than one file (duplicate): in "
            f"{shown_path(first)!r} too",
            path=second,
        )
    return [[tensor for tensor in file if tensor.name in chosen] for file in files]


def _checked_names(wanted: Iterable[str]) -> list[str]:
    if isinstance(wanted, str | bytes):
        raise RunaiStreamerInvalidInputException(
            "tensor_names takes a list of names, not one text: write [name]"
        )
    names = list(wanted)
    if not names:
        raise RunaiStreamerInvalidInputException(
            "tensor_names is empty: leave it out to stream every tensor"
        )
    for name in names:
        if not isinstance(name, str):
            raise RunaiStreamerInvalidInputException(f"tensor_names: {name!r} is not text")
    return names


def by_name(
    files: Iterable[tuple[str, Iterable[SafetensorMetadata]]], place_of: Mapping[str, str] | None
) -> dict[str, tuple[str, SafetensorMetadata]]:
    """The path of the file and the tensor of each name, in the order of `files`: pairs of a path
    and tensors. `place_of` is what an index says: the file of each name. A name that stands in two
    files is an error without it."""
    found: dict[str, tuple[str, SafetensorMetadata]] = {}
    for path, tensors in files:
        for tensor in tensors:
            name = tensor.name
            if place_of is not None and place_of.get(name) != path:
                continue
            if name in found:
                raise RunaiStreamerInvalidInputException(
                    f"{path}: {name!r} stands in {shown_path(found[name][0])!r} too, and no index "
                    "says which one counts. Name the files of one model",
                    path=path,
                )
            found[name] = path, tensor
    return found
