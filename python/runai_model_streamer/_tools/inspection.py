"""The content of a checkpoint, from its headers alone, and its problems."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    StreamerChangedError,
    StreamerError,
    StreamerNotFoundError,
)
from runai_model_streamer._formats.safetensors.dtypes import torch_dtype
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata, unaligned
from runai_model_streamer._native_api import (
    safetensors_header,
    safetensors_header_end,
)
from runai_model_streamer._paths import is_remote, to_text
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Ownership, Session
from runai_model_streamer._storage.checkpoint import CheckpointIndex, find_checkpoint
from runai_model_streamer._storage.listing import list_safetensors

# Headers of shards have some KiB. Longer ones need a second request.
_FIRST_BYTES = 64 << 10
# The dtypes that every version of torch has: it takes seconds to import.
_COMMON = frozenset(
    [
        "F64",
        "F32",
        "F16",
        "BF16",
        "I64",
        "I32",
        "I16",
        "I8",
        "U8",
        "BOOL",
        "C64",
        "F8_E4M3",
        "F8_E5M2",
    ]
)
_AT_ONCE = 32  # requests for headers: each waits for the storage and brings little
_LAYER = re.compile(r"^(.*?\.\d+)\.", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An error of a checkpoint, or a suspicion of one."""

    kind: str
    """missing, header, duplicate, misaligned, index or dtype."""
    text: str
    path: str = ""
    serious: bool = True
    """True if a load would fail, or read other bytes than intended."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file, by its header."""

    path: str
    size: int
    """In bytes."""
    version: str
    data_start: int
    tensors: list[SafetensorMetadata]
    metadata: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Amount:
    """Of tensors that have something in common."""

    tensors: int = 0
    parameters: int = 0
    bytes: int = 0

    def __add__(self, tensor: SafetensorMetadata) -> Amount:
        return Amount(
            self.tensors + 1,
            self.parameters + tensor.get_item_count(),
            self.bytes + tensor.get_bytesize(),
        )


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A checkpoint."""

    path: str
    shards: list[Shard]
    index: CheckpointIndex | None
    problems: list[Problem]

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    def total(self) -> Amount:
        amount = Amount()
        for shard in self.shards:
            for tensor in shard.tensors:
                amount += tensor
        return amount

    def by_dtype(self) -> dict[str, Amount]:
        """The largest first."""
        return self._grouped(lambda tensor: tensor.dtype)

    def by_layer(self) -> dict[str, Amount]:
        """By the part of the name that ends with the number of a layer, in the order of files."""
        return self._grouped(layer_of, ordered=False)

    def _grouped(
        self, key: Callable[[SafetensorMetadata], str], ordered: bool = True
    ) -> dict[str, Amount]:
        groups: dict[str, Amount] = defaultdict(Amount)
        for shard in self.shards:
            for tensor in shard.tensors:
                groups[key(tensor)] += tensor
        if not ordered:
            return dict(groups)
        return dict(sorted(groups.items(), key=lambda item: -item[1].bytes))


def layer_of(tensor: SafetensorMetadata) -> str:
    """model.layers.3 of model.layers.3.mlp.weight; what has no number: the name's first part."""
    found = _LAYER.match(tensor.name)
    return found[1] if found else tensor.name.partition(".")[0]


def inspect_checkpoint(
    path: str,
    credentials: S3Credentials | None = None,
    *,
    variant: str | None = None,
    compare_duplicates: bool = False,
) -> Inspection:
    """Reads the headers of all files at `path`, concurrently, and compares them with the index.

    Raises a StreamerError if there are no files, or none can be read. `compare_duplicates` reads
    the bytes of tensors of equal names.
    """
    text = to_text(path)
    problems: list[Problem] = []
    index: CheckpointIndex | None = None
    try:
        checkpoint = find_checkpoint(text, credentials, variant)
        files, index = checkpoint.files, checkpoint.index
    except StreamerNotFoundError as error:
        files = _files_all_the_same(text, credentials)
        if not files:
            raise
        problems.append(Problem("missing", str(error), text))
    shards, failures = read_shards(files, credentials)
    if failures and not shards and len(failures) == len(files) == 1:
        raise failures[0][1]
    for file, failure in failures:
        problems.append(Problem("header", str(failure), file))
    problems += _misaligned(shards)
    problems += _unknown_dtypes(shards)
    problems += _duplicates(
        shards, index, credentials if compare_duplicates else None, compare_duplicates
    )
    if index is not None:
        problems += _against_index(shards, index, {file for file, _ in failures})
    return Inspection(text, shards, index, problems)


def _files_all_the_same(path: str, credentials: S3Credentials | None) -> list[str]:
    directory = path
    if path.partition("?")[0].endswith(".json"):
        directory = path.rpartition("/")[0] or "."
    try:
        return list_safetensors(directory, credentials)
    except StreamerError:
        return []


def read_shards(
    files: Sequence[str], credentials: S3Credentials | None = None
) -> tuple[list[Shard], list[tuple[str, StreamerError]]]:
    """The headers of `files`, and those that can't be read, with the reason."""
    shards: list[Shard] = []
    failures: list[tuple[str, StreamerError]] = []
    options = {"concurrency": _AT_ONCE} if _may_choose(files) else {}
    session = Session(files, credentials=credentials, options=options)
    try:
        ends: dict[str, int] = {}
        firsts: dict[str, bytes] = {}
        for file, opened in zip(files, session.open_each(files, _FIRST_BYTES), strict=True):
            try:
                if opened.error is not None:
                    raise opened.error
                ends[file] = safetensors_header_end(opened.prefix, file, opened.size)
                firsts[file] = opened.prefix
            except StreamerError as error:
                failures.append((file, error))
        long = [file for file in firsts if ends[file] > len(firsts[file])]
        ranges = [(file, len(firsts[file]), ends[file] - len(firsts[file])) for file in long]
        for file, rest in zip(long, session.read(ranges), strict=True):
            firsts[file] += rest
        for file, first in firsts.items():
            size = session.sizes[file]
            try:
                header = safetensors_header(first[: ends[file]], file, size, SafetensorMetadata)
            except StreamerError as error:
                failures.append((file, error))
                continue
            version = session.versions[file]
            shards.append(
                Shard(file, size, version, header.data_offset, header.tensors, header.metadata)
            )
    finally:
        session.close()
    return shards, failures


def _may_choose(files: Sequence[str]) -> bool:
    """True if no setting limits the requests at once."""
    names = ("RUNAI_STREAMER_CONCURRENCY", "RUNAI_STREAMER_OBJ_CONCURRENCY")
    return bool(files) and is_remote(files[0]) and not any(map(os.environ.get, names))


def _misaligned(shards: Sequence[Shard]) -> list[Problem]:
    problems = []
    for shard in shards:
        wrong = [tensor.name for tensor in unaligned(shard.tensors, shard.data_start)]
        if wrong:
            problems.append(
                Problem(
                    "misaligned",
                    f"{len(wrong)} tensors are not aligned to their elements, {wrong[0]!r} among "
                    "them: they are copied when they are read",
                    shard.path,
                    serious=False,
                )
            )
    return problems


def _unknown_dtypes(shards: Sequence[Shard]) -> list[Problem]:
    dtypes = {tensor.dtype for shard in shards for tensor in shard.tensors}
    if dtypes <= _COMMON:
        return []
    return [
        Problem(
            "dtype",
            f"this version of torch has no dtype for {dtype}, of {tensor.name!r}",
            shard.path,
        )
        for shard in shards
        for dtype, tensor in {tensor.dtype: tensor for tensor in shard.tensors}.items()
        if torch_dtype(dtype) is None
    ]


def _duplicates(
    shards: Sequence[Shard],
    index: CheckpointIndex | None,
    credentials: S3Credentials | None,
    compare: bool,
) -> list[Problem]:
    places: dict[str, list[tuple[Shard, SafetensorMetadata]]] = defaultdict(list)
    for shard in shards:
        for tensor in shard.tensors:
            places[tensor.name].append((shard, tensor))
    problems = []
    for name, found in places.items():
        if len(found) < 2:
            continue
        files = " and ".join(repr(shard.path) for shard, _ in found)
        kinds = {(tensor.dtype, tensor.shape) for _, tensor in found}
        if len(kinds) > 1:
            says = "of different dtypes or shapes"
        elif not compare:
            says = "whose bytes were not compared"
        elif len({_digest(shard, tensor, credentials) for shard, tensor in found}) > 1:
            says = "with different bytes"
        else:
            says = "with the same bytes"
        known = index is not None and name in index.place_of
        same = says == "with the same bytes"
        problems.append(
            Problem(
                "duplicate",
                f"{name!r} is in {files}, {says}",
                found[0][0].path,
                serious=not (known or same),
            )
        )
    return problems


def _digest(shard: Shard, tensor: SafetensorMetadata, credentials: S3Credentials | None) -> str:
    return digests_of(shard, [tensor], credentials)[tensor.name]


def digests_of(
    shard: Shard, tensors: Sequence[SafetensorMetadata], credentials: S3Credentials | None = None
) -> dict[str, str]:
    """The SHA-256 of the bytes of `tensors`, which are of `shard`, at the version of `shard`."""
    found: dict[str, str] = {}
    if not tensors:
        return found
    session = Session([shard.path], credentials=credentials)
    session.ownership = Ownership.COPIED  # read here: a truncation must be no signal
    try:
        session.open([shard.path])
        if session.versions[shard.path] != shard.version:
            raise StreamerChangedError(
                f"{shard.path}: the object was replaced while it was read",
                code="changed",
                path=shard.path,
            )
        starts = [shard.data_start + tensor.start for tensor in tensors]
        sizes = [tensor.get_bytesize() for tensor in tensors]
        session.submit([FileChunks(0, shard.path, starts, sizes)])
        for run in session.runs():
            assert not isinstance(run.data, list)  # it is memory of the host
            for index in range(run.first, run.first + run.count):
                digest = hashlib.sha256()
                if run.data is not None and sizes[index]:
                    start = run.positions[index - run.first]
                    digest.update(memoryview(run.data)[start : start + sizes[index]])
                found[tensors[index].name] = digest.hexdigest()
    finally:
        session.close()
    return found


def _against_index(
    shards: Sequence[Shard], index: CheckpointIndex, unread: set[str]
) -> list[Problem]:
    problems = []
    place_of = index.place_of
    there = {(tensor.name, shard.path) for shard in shards for tensor in shard.tensors}
    lacking = [
        name for name, file in place_of.items() if (name, file) not in there and file not in unread
    ]
    if lacking:
        problems.append(
            Problem(
                "index",
                index.lacks(lacking),
                place_of[lacking[0]],
            )
        )
    extra = [
        (tensor.name, shard.path)
        for shard in shards
        for tensor in shard.tensors
        if tensor.name not in place_of
    ]
    if extra:
        problems.append(
            Problem(
                "index",
                f"the files have {len(extra)} tensors that the index does not name, "
                f"{extra[0][0]!r} among them",
                extra[0][1],
                serious=False,
            )
        )
    return problems
