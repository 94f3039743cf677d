"""The files of a checkpoint, by a path: a file, an index, a directory or a pattern.

The index decides. Without one, a directory is the files of one model: neither variants of them
(fp16 beside the whole) nor the same model in one piece (consolidated).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
    StreamerNotFoundError,
    shown_path,
)
from runai_model_streamer._paths import Path, is_remote, is_url, to_text
from runai_model_streamer._session import Session
from runai_model_streamer._storage.local import is_weights, names_in
from runai_model_streamer._storage.pull import list_objects, name_of

_INDEX = re.compile(r"(?P<base>.+)\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json", re.DOTALL)
_FILE = re.compile(
    r"(?P<base>.+?)(?:\.(?P<before>(?=[^.]*[A-Za-z])[^.]+?))?"
    r"(?:-(?P<number>\d{5})-of-(?P<count>\d{5})(?:\.(?P<behind>[^.]+))?)?\.safetensors",
    re.DOTALL,  # names may have line breaks
)
# Names of files beside those of a model, which repeat or extend them.
_BESIDE = ("consolidated", "adapter_model")
_PREFERRED = ("model", "diffusion_pytorch_model")
_INDEX_LIMIT = 512 << 20
_FIRST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class CheckpointIndex:
    """An index file."""

    path: str
    place_of: Mapping[str, str]
    """The path of the file of each name."""

    def lacks(self, names: Sequence[str]) -> str:
        """The text of an error: the index names these tensors, and their files lack them."""
        name, *others = names
        more = f", and {len(others)} more tensors that its files lack" if others else ""
        return (
            f"{shown_path(self.path)}: the index says that the tensor {name!r} is in "
            f"{shown_path(self.place_of[name])!r}, which has no such tensor{more}. Download the "
            "index and the files again, from one revision"
        )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The files of one model."""

    files: list[str]
    """Their paths, sorted, as the caller wrote the directory."""
    index: CheckpointIndex | None = None


@dataclasses.dataclass(frozen=True)
class _Directory:
    """The names in a directory, and what their paths begin and end with."""

    path: str
    names: frozenset[str]
    paths: Mapping[str, str]

    def path_of(self, name: str) -> str:
        """The path of `name`, which may lie below the directory."""
        if name in self.paths:
            return self.paths[name]
        return os.path.join(self.path, name)


def list_checkpoint(
    path: Path, s3_credentials: S3Credentials | None = None, *, variant: str | None = None
) -> list[str]:
    """The safetensors files of the checkpoint at `path`, sorted.

    `path` is a file, an index file (``model.safetensors.index.json``), a directory, or a pattern of
    names in a directory; local, or a URI. In a directory, the index decides which files belong to
    the checkpoint. Without one, these are all its safetensors files but hidden ones, those of a
    variant (``model.fp16.safetensors``) beside the files without, and consolidated ones beside
    others. `variant` chooses a variant.

    Raises:
        StreamerNotFoundError: there are no such files, or a file is missing; the text names it.
        StreamerError: a directory can't be listed, or an index can't be used.
    """
    return find_checkpoint(path, s3_credentials, variant).files


def find_checkpoint(
    path: Path, credentials: S3Credentials | None = None, variant: str | None = None
) -> Checkpoint:
    """The checkpoint at `path`: see list_checkpoint()."""
    text = to_text(path)
    plain = text.partition("?")[0] if is_url(text) else text
    name = plain.rpartition("/")[2]
    if not is_remote(text) and os.path.isdir(text):
        return _of_directory(_list_local(text), credentials, variant)
    if _INDEX.fullmatch(name):
        return _of_index(_list_around(text, plain, credentials), name, text, credentials)
    if name.endswith(".safetensors") and not _is_pattern(text, name):
        return Checkpoint([text])
    if _is_pattern(text, name):
        return _of_pattern(text, name, credentials)
    if not is_remote(text):
        if os.path.lexists(text):
            return Checkpoint([text])  # a file of any name
        raise _not_found(f"{text}: no such file or directory", text)
    return _of_directory(_list_remote(text, credentials), credentials, variant)


def _is_pattern(path: str, name: str) -> bool:
    if is_remote(path):  # names of objects may hold any letter
        return "*" in name and not is_url(path)
    return any(mark in name for mark in "*?[") and not os.path.lexists(path)


def _list_local(path: str) -> _Directory:
    names = frozenset(names_in(path))
    return _Directory(path, names, {name: os.path.join(path, name) for name in names})


def _list_remote(path: str, credentials: S3Credentials | None) -> _Directory:
    paths = {}
    for found, _, _ in list_objects(path, False, credentials):
        paths[name_of(found)] = found
    return _Directory(path.rstrip("/"), frozenset(paths), paths)


def _list_around(index: str, plain: str, credentials: S3Credentials | None) -> _Directory | None:
    """The directory of an index; None if it can't be listed."""
    parent = plain.rpartition("/")[0]
    if is_url(index):
        return None  # its server lists the files of the index, or none
    if is_remote(index):
        return _list_remote(parent, credentials)
    return _list_local(parent or ("/" if plain.startswith("/") else ""))


def _of_directory(
    directory: _Directory, credentials: S3Credentials | None, variant: str | None
) -> Checkpoint:
    indices = _preferred(
        {
            name: found["base"]
            for name in directory.names
            if (found := _INDEX.fullmatch(name)) and found["variant"] == variant
        }
    )
    if len(indices) > 1:
        raise RunaiStreamerInvalidInputException(
            f"{directory.path}: it has several index files: {_some(indices)}. Name one of them",
            path=directory.path,
        )
    if indices:
        index = indices[0]
        return _of_index(directory, index, directory.path_of(index), credentials)
    names = _of_one_model(
        [name for name in directory.names if is_weights(name)], variant, directory.path
    )
    if not names:
        raise _not_found(_nothing_in(directory, variant), directory.path)
    return Checkpoint(sorted(map(directory.path_of, names)))


def _preferred(names: Mapping[str, str]) -> list[str]:
    """Of index files, by their base names: the one that transformers and diffusers read."""
    for wanted in _PREFERRED:
        for name, base in names.items():
            if base == wanted:
                return [name]
    return _without_beside(names)


def _without_beside(names: Mapping[str, str]) -> list[str]:
    rest = [name for name, base in names.items() if not base.startswith(_BESIDE)]
    return sorted(rest or names)


def _of_one_model(names: Sequence[str], variant: str | None, path: str) -> list[str]:
    """The files of one model among `names` of a directory without an index."""
    parts: dict[str, tuple[str, str | None, int, int]] = {}
    for name in names:
        found = _FILE.fullmatch(name)
        assert found is not None
        kind = found["before"] or found["behind"]
        parts[name] = found["base"], kind, int(found["number"] or 0), int(found["count"] or 0)
    plain = {base for base, kind, _, _ in parts.values() if kind is None}
    chosen = {
        name: base
        for name, (base, kind, _, _) in parts.items()
        if kind == variant or (variant is None and base not in plain)
    }
    kept = _without_beside(chosen)
    shards: dict[tuple[str, str | None, int], dict[int, str]] = defaultdict(dict)
    for name in kept:
        base, kind, number, count = parts[name]
        if count:
            shards[base, kind, count][number] = name
    for (_, _, count), there in shards.items():
        number, name = min(there.items())
        first = min(number, 1)
        lacking = [
            name.replace(f"-{number:05}-of-", f"-{other:05}-of-")
            for other in range(first, first + count)
            if other not in there
        ]
        if lacking:
            raise _not_found(f"{path}: files are missing: {_some(lacking)}", path)
    return kept


def _of_index(
    directory: _Directory | None, name: str, path: str, credentials: S3Credentials | None
) -> Checkpoint:
    plain, mark, query = path.partition("?") if is_url(path) else (path, "", "")
    base = plain[: len(plain) - len(plain.rpartition("/")[2])]
    place_of: dict[str, str] = {}
    missing = set()
    for tensor, file in _weight_map(path, credentials).items():
        parts = file.split("/")
        if file.startswith("/") or not file or ".." in parts or "\0" in file:
            raise RunaiStreamerInvalidInputException(
                f"{path}: the index names a file outside its directory: {file!r}", path=path
            )
        if directory is None:
            place_of[tensor] = base + file + mark + query
            continue
        place_of[tensor] = directory.path_of(file)
        if file not in directory.names and (
            len(parts) == 1
            or not (is_remote(path) or os.path.lexists(os.path.join(directory.path, file)))
        ):
            missing.add(file)
    if missing:
        raise _not_found(
            f"{path}: the index names files that are not there: {_some(sorted(missing))}", path
        )
    return Checkpoint(sorted(set(place_of.values())), CheckpointIndex(path, place_of))


def _weight_map(path: str, credentials: S3Credentials | None) -> dict[str, str]:
    text = read_small_file(path, credentials, _INDEX_LIMIT)
    try:
        found = json.loads(text)
        weights = found["weight_map"]
        if not all(isinstance(file, str) for file in weights.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunaiStreamerInvalidInputException(
            f"{path}: it is not an index of a checkpoint: it has no weight_map of names to files",
            path=path,
        ) from None
    return dict(weights)


def read_small_file(path: str, credentials: S3Credentials | None, limit: int) -> bytes:
    """The content of the file or object at `path`, of at most `limit` bytes."""
    session = Session([path], credentials=credentials)
    try:
        (first,) = session.open([path], _FIRST_BYTES)
        size = session.sizes[path]
        if size > limit:
            raise RunaiStreamerInvalidInputException(
                f"{path}: a file of {size} bytes is too long for its purpose", path=path
            )
        if size <= len(first):
            return first[:size]
        return first + next(session.read([(path, len(first), size - len(first))]))
    finally:
        session.close()


def _of_pattern(path: str, pattern: str, credentials: S3Credentials | None) -> Checkpoint:
    parent = path[: len(path) - len(pattern)]
    if any(mark in parent for mark in "*?["):
        raise RunaiStreamerInvalidInputException(
            f"{path}: a pattern may only be the last part of a path", path=path
        )
    if is_remote(path):
        directory = _list_remote(parent, credentials)
    else:
        directory = _list_local(parent)
    names = [n for n in directory.names if is_weights(n) and fnmatch.fnmatchcase(n, pattern)]
    if not names:
        raise _not_found(f"{path}: no safetensors files match the pattern", path)
    return Checkpoint(sorted(map(directory.path_of, names)))


def _nothing_in(directory: _Directory, variant: str | None) -> str:
    text = f"{directory.path}: no safetensors files in this directory"
    if variant is not None:
        return text + f" are of the variant {variant!r}"
    other = [name for name in directory.names if name.lower().endswith(".safetensors")]
    if other:
        return text + f": names end in small letters and do not begin with a dot: {_some(other)}"
    parts = [name for name in directory.names if name.lower().endswith((".bin", ".pt", ".pth"))]
    if parts:
        return text + f": it has PyTorch's own: {_some(parts)}. Save them as safetensors"
    return text


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(shown_path(name)) for name in sorted(names)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _not_found(text: str, path: str) -> StreamerError:
    return StreamerNotFoundError(text, code="not_found", path=path)
