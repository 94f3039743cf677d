"""Selection of tensors by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    SafetensorsHeaderError,
    shown_path,
)
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata
from runai_model_streamer._formats.safetensors.names import (
    matching,
    may_have_pattern,
    refuse_missing,
)
from runai_model_streamer._storage.checkpoint import CheckpointIndex

TensorNames = Iterable[str] | Callable[[str], bool]


Tensors = list[SafetensorMetadata]


class Choice(Protocol):
    """Chooses tensors of the files of one load, file by file in their order."""

    def take(self, file: SafetensorsMetadata) -> Tensors:
        """The wanted tensors of the next file."""

    def end(self) -> None:
        """Raises for what none of the files had. Called behind the last one."""


@dataclasses.dataclass(frozen=True)
class NamesOfFiles:
    """The wanted names of each file, by its path. Files may have further tensors of these names."""

    names: Mapping[str, Container[str]]

    def take(self, file: SafetensorsMetadata) -> Tensors:
        names = self.names.get(file.path, ())
        return [tensor for tensor in file.tensors_metadata if tensor.name in names]

    def end(self) -> None:
        pass


class TensorsOfCheckpoint:
    """Each tensor of a checkpoint once, from the file that the index names.

    Without an index, a name that is in two files is an error.
    """

    def __init__(self, index: CheckpointIndex | None) -> None:
        self._index = index
        self._found: dict[str, str] = {}

    def take(self, file: SafetensorsMetadata) -> Tensors:
        tensors = file.tensors_metadata
        if self._index is not None:
            place_of = self._index.place_of
            chosen = [one for one in tensors if place_of.get(one.name) == file.path]
            self._found.update((one.name, file.path) for one in chosen)
            return chosen
        for tensor in tensors:
            if tensor.name in self._found:
                other = shown_path(self._found[tensor.name])
                raise RunaiStreamerInvalidInputException(
                    f"{file.path}: {tensor.name!r} stands in {other!r} too, and no index says "
                    "which one counts. Name the files of one model",
                    path=file.path,
                )
            self._found[tensor.name] = file.path
        return list(tensors)

    def end(self) -> None:
        refuse_lacking(self._index, self._found)


Selection = TensorNames | NamesOfFiles | TensorsOfCheckpoint


class _Function:
    """The tensors that a function of the caller wants; all of them without one."""

    def __init__(self, wants: Callable[[str], bool] | None) -> None:
        self._wants = wants

    def take(self, file: SafetensorsMetadata) -> Tensors:
        wants = self._wants
        if wants is None:
            return list(file.tensors_metadata)
        return [tensor for tensor in file.tensors_metadata if wants(tensor.name)]

    def end(self) -> None:
        pass


class _Names:
    """The tensors of these names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._wanted = set(names)
        self._left = set(self._wanted)
        self._files: list[SafetensorsMetadata] = []

    def take(self, file: SafetensorsMetadata) -> Tensors:
        wanted, left = self._wanted, len(self._left)
        tensors = [tensor for tensor in file.tensors_metadata if tensor.name in wanted]
        self._left.difference_update([tensor.name for tensor in tensors])
        if left - len(self._left) != len(tensors):
            raise self._twice({tensor.name for tensor in tensors}, file)
        self._files.append(file)
        return tensors

    def end(self) -> None:
        refuse_missing("tensor_names", sorted(self._left))

    def _twice(
        self, names: set[str], file: SafetensorsMetadata
    ) -> RunaiStreamerInvalidInputException:
        other, name = next(
            (other.path, tensor.name)
            for other in self._files
            for tensor in other.tensors_metadata
            if tensor.name in names
        )
        return RunaiStreamerInvalidInputException(
            f"{file.path}: tensor_names: {name!r} is in more than one file (duplicate): in "
            f"{shown_path(other)!r} too",
            path=file.path,
        )


def select(
    files: Iterable[SafetensorsMetadata], wanted: Selection | None
) -> Iterator[tuple[SafetensorsMetadata, Tensors]]:
    """Each of `files` with its wanted tensors, as it comes.

    `wanted`: names and glob patterns (``*``, ``?``, ``[...]``, over the whole name), or a function
    from a name to whether it is wanted; None is everything. A name that stands in two files is an
    error, and a name or pattern without a tensor is one behind the last file. If there are
    patterns, all files come before the first one is returned: a name that a tensor has is no
    pattern, and the last file may have that tensor.
    """
    if wanted is None or callable(wanted):
        choice: Choice = _Function(wanted)
    elif isinstance(wanted, NamesOfFiles | TensorsOfCheckpoint):
        choice = wanted
    else:
        names: Collection[str] = _checked_names(wanted)
        if may_have_pattern(names):
            files = list(files)
            names = _without_patterns(names, [t.name for f in files for t in f.tensors_metadata])
        choice = _Names(names)
    for file in files:
        yield file, choice.take(file)
    choice.end()


def _without_patterns(wanted: Iterable[str], names: Sequence[str]) -> Collection[str]:
    """`wanted`, with the `names` that fit in the place of each pattern."""
    wanted = set(wanted)
    chosen = wanted.intersection(names)
    missing = []
    for pattern in wanted - chosen:
        found = matching(names, pattern)
        chosen.update(found)
        if not found:
            missing.append(pattern)
    refuse_missing("tensor_names", sorted(missing))
    return chosen


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
    files: Iterable[SafetensorsMetadata], index: CheckpointIndex | None
) -> dict[str, tuple[str, SafetensorMetadata]]:
    """The path of the file and the tensor of each name of a checkpoint, in the order of `files`, as
    TensorsOfCheckpoint chooses them. Leaves out what the files lack: see lacking()."""
    choice = TensorsOfCheckpoint(index)
    return {tensor.name: (file.path, tensor) for file in files for tensor in choice.take(file)}


def lacking(index: CheckpointIndex | None, found: Container[str]) -> list[str]:
    """The names of the index that are not among those that were `found` in its files."""
    return [] if index is None else [name for name in index.place_of if name not in found]


def refuse_lacking(
    index: CheckpointIndex | None,
    found: Container[str],
    needed: Callable[[str], bool] = lambda _: True,
) -> None:
    """Raises if the files lack a `needed` tensor of the index."""
    names = [name for name in lacking(index, found) if needed(name)]
    if names:
        assert index is not None
        raise SafetensorsHeaderError(index.lacks(names), code="format", path=index.path)
