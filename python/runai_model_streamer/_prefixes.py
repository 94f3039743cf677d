"""The first bytes of files: their headers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from runai_model_streamer._session import Session


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The first bytes of a file: its header, as the file format delimits it."""

    path: str
    size: int
    """Of the file, in bytes."""
    version: str
    """Of the file, as its storage names it."""
    data: bytes


PrefixEnd = Callable[[bytes, str, int], int]
"""(first bytes, path, size of the file) -> the end of the header, in bytes. May raise."""


# First bytes of so many bytes are held at once, or a quarter of the memory limit.
_MOST_HELD = 8 << 20
# As long as the limit is 0: it is chosen when the first file is opened.
_HELD_AT_FIRST = 1 << 20
# Files that are opened first, so that reading begins soon.
_FIRST_FILES = 4


def read_prefixes(
    session: Session,
    paths: Sequence[str],
    first_bytes: int,
    end_of: PrefixEnd,
    *,
    soon: bool = False,
) -> Iterator[Prefix]:
    """Opens `paths` in `session` and reads the header of each, in their order, many at a time.

    The first request of a file reads `first_bytes`; `end_of` then returns the end of the header.
    The files stay open, and pinned to their version. The paths differ. First bytes behind a header
    are held for some files at a time, within the memory limit. `soon`: few files at first, so that
    their tensors can be streamed while further files are opened.
    """
    at, most = 0, _FIRST_FILES if soon else len(paths)
    while at < len(paths):
        size = min(most, max(1, _most_held(session) // first_bytes))
        yield from _read_some(session, paths[at : at + size], first_bytes, end_of)
        at, most = at + size, len(paths)


def _most_held(session: Session) -> int:
    limit = session.stream.stats()["memory_limit"]
    if limit is None:
        return _MOST_HELD
    # Each part is there twice for a moment.
    return min(_MOST_HELD, limit // 4) if limit else _HELD_AT_FIRST


def _read_some(
    session: Session, paths: Sequence[str], first_bytes: int, end_of: PrefixEnd
) -> Iterator[Prefix]:
    """Each as soon as it and those before it are read. The error of one is raised after those
    before it."""
    at = 0
    for files in session.opening(paths, first_bytes):
        names, at = paths[at : at + len(files)], at + len(files)
        ends: list[int] = []
        wrong: Exception | None = None
        for path, file in zip(names, files, strict=True):
            try:
                if file.error is not None:
                    raise file.error
                ends.append(end_of(file.prefix, path, file.size))
            except Exception as error:
                wrong = error
                break
        rests = session.read(
            [
                (path, len(file.prefix), end - len(file.prefix))
                for path, file, end in zip(names, files, ends, strict=False)
                if end > len(file.prefix)
            ]
        )
        for path, file, end in zip(names, files, ends, strict=False):
            first = file.prefix
            data = first + next(rests) if end > len(first) else first[:end]
            yield Prefix(path, file.size, file.version, data)
        if wrong is not None:
            raise wrong
