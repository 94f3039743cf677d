"""Two checkpoints, tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import SafetensorsHeaderError, StreamerNotFoundError
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._tools.inspection import (
    Inspection,
    Shard,
    digests_of,
    inspect_checkpoint,
)


@dataclasses.dataclass(frozen=True)
class Change:
    """A tensor that is not the same in both."""

    name: str
    kind: str
    """added, removed, dtype, shape or bytes."""
    before: str = ""
    after: str = ""


def compare_checkpoints(
    before: str,
    after: str,
    credentials: S3Credentials | None = None,
    *,
    bytes_too: bool = True,
) -> tuple[list[Change], int]:
    """The changes from the checkpoint `before` to `after`, sorted by name, and the number of
    tensors that are the same.

    With `bytes_too`, the bytes of tensors of one dtype and shape are read and compared. Without,
    headers alone are. Raises a StreamerError if a file of either can't be read.
    """
    one = _tensors(inspect_checkpoint(before, credentials))
    other = _tensors(inspect_checkpoint(after, credentials))
    changes = [Change(name, "removed", before=_shown(one[name][1])) for name in one.keys() - other]
    changes += [Change(name, "added", after=_shown(other[name][1])) for name in other.keys() - one]
    alike = []
    for name in one.keys() & other.keys():
        old, new = one[name][1], other[name][1]
        if (old.dtype, old.shape) == (new.dtype, new.shape):
            alike.append(name)
        else:
            kind = "dtype" if old.dtype != new.dtype else "shape"
            changes.append(Change(name, kind, _shown(old), _shown(new)))
    same = len(alike)
    if bytes_too:
        digests = [_digests(side, alike, credentials) for side in (one, other)]
        for name in alike:
            old_digest, new_digest = digests[0][name], digests[1][name]
            if old_digest != new_digest:
                same -= 1
                changes.append(Change(name, "bytes", old_digest[:16], new_digest[:16]))
    return sorted(changes, key=lambda change: change.name), same


_Places = Mapping[str, tuple[Shard, SafetensorMetadata]]


def _tensors(found: Inspection) -> dict[str, tuple[Shard, SafetensorMetadata]]:
    """Of equal names the one that the index names, else the first."""
    for problem in found.problems:
        # A file or a tensor that a checkpoint lacks is no difference.
        if problem.kind == "missing":
            raise StreamerNotFoundError(problem.text, code="not_found", path=problem.path)
        if problem.kind == "header" or (problem.kind == "index" and problem.serious):
            raise SafetensorsHeaderError(problem.text, code="format", path=problem.path)
    places: dict[str, tuple[Shard, SafetensorMetadata]] = {}
    for shard in found.shards:
        for tensor in shard.tensors:
            named = found.index is not None and found.index.place_of.get(tensor.name) == shard.path
            if named or tensor.name not in places:
                places[tensor.name] = shard, tensor
    return places


def _digests(side: _Places, names: list[str], credentials: S3Credentials | None) -> dict[str, str]:
    shards: dict[str, Shard] = {}
    wanted: dict[str, list[SafetensorMetadata]] = defaultdict(list)
    for name in names:
        shard, tensor = side[name]
        shards[shard.path] = shard
        wanted[shard.path].append(tensor)
    found: dict[str, str] = {}
    for path, tensors in wanted.items():
        tensors.sort(key=lambda tensor: tensor.start)
        found |= digests_of(shards[path], tensors, credentials)
    return found


def _shown(tensor: SafetensorMetadata) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
