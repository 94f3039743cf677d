"""The files and objects at a path."""

from __future__ import annotations

import dataclasses
import os

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerError, StreamerNotFoundError
from runai_model_streamer._paths import is_remote, to_native, to_text
from runai_model_streamer._session import Session
from runai_model_streamer._storage.local import names_in
from runai_model_streamer._storage.pull import list_objects


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or an object."""

    path: str
    size: int
    """In bytes."""
    version: str
    """As the storage names it: an ETag, a generation, a time; empty: not in the list."""


def entries_of(
    path: str, recursive: bool = False, credentials: S3Credentials | None = None
) -> list[Entry]:
    """The files in the directory at `path`, and with `recursive` those below it; of a file itself.

    Sorted by path. Raises a StreamerError if there is neither.
    """
    text = to_text(path)
    if not is_remote(text):
        if not os.path.isdir(text):
            return [_file_itself(text, credentials)]
        names_in(text)  # raises the reason if it can't be listed
        return [Entry(*found) for found in native.list_objects(to_native(text), recursive)]
    failure: StreamerError | None = None
    found = []
    try:
        found = list_objects(text, recursive, credentials)
    except StreamerError as error:  # servers that list nothing still have files
        failure = error
    if found:
        return [Entry(*one) for one in found]
    try:
        return [_file_itself(text, credentials)]
    except StreamerError as error:
        if failure is not None:
            raise failure from None
        if error.code not in ("not_found", "invalid"):
            raise
    if not recursive and list_objects(text, True, credentials):
        return []  # all of it is further down
    raise StreamerNotFoundError(
        f"{text}: there is nothing at or below this path. Check the path, whose case matters",
        code="not_found",
        path=text,
    )


def _file_itself(path: str, credentials: S3Credentials | None) -> Entry:
    session = Session([path], credentials=credentials)
    try:
        session.open([path])
        return Entry(path, session.sizes[path], session.versions[path])
    finally:
        session.close()


def relative_names(path: str, entries: list[Entry]) -> dict[str, Entry]:
    """The entries of entries_of(path), by their names below it."""
    base = to_text(path).partition("?")[0].rstrip("/") + "/"
    names = {}
    for entry in entries:
        plain = entry.path.partition("?")[0] if is_remote(entry.path) else entry.path
        name = plain.removeprefix(base) if plain.startswith(base) else plain.rpartition("/")[2]
        names[name] = entry
    return names
