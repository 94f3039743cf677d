"""Finding and fetching the files of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerError, shown_path
from runai_model_streamer._logging import logger
from runai_model_streamer._paths import Path, is_remote, is_url, to_native, to_text
from runai_model_streamer._storage.checkpoint import find_checkpoint
from runai_model_streamer._storage.local import is_weights, names_in
from runai_model_streamer._storage.patterns import matches
from runai_model_streamer._storage.pull import (
    list_objects,
    list_safetensors_objects,
    pull_objects,
)


def list_safetensors(path: Path, s3_credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors files directly in the directory `path`, sorted; none: an empty list.

    Each is the directory as it was given, and the name. Links that lead nowhere are listed; hidden
    files are not. A local directory that can't be listed is an empty list and a warning in the log.
    The path of an index gives the files that it names. list_checkpoint() raises, and finds the
    index of a directory.
    """
    directory = to_text(path)
    if directory.endswith(".safetensors.index.json") and not is_url(directory):
        return _of_index(directory, s3_credentials)
    if is_remote(directory):
        return list_safetensors_objects(directory, s3_credentials)
    try:
        names = names_in(directory)
    except StreamerError as error:
        logger.warning("list_safetensors: %s", error)
        return []
    found = [name for name in names if is_weights(name)]
    if not found and any(name.lower().endswith(".safetensors") for name in names):
        logger.warning(
            "list_safetensors: %s: names end in .safetensors, in small letters, and do not begin "
            "with a dot: there are others",
            directory,
        )
    return sorted(os.path.join(directory, name) for name in found)


def _of_index(path: str, credentials: S3Credentials | None) -> list[str]:
    try:
        return find_checkpoint(path, credentials).files
    except StreamerError as error:
        if is_remote(path):
            raise
        logger.warning("list_safetensors: %s", error)
        return []


def pull_files(
    model_path: Path,
    dst: Path,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Copies the objects below the URI `model_path` into the directory `dst`.

    Patterns are those of fnmatch, over the whole key of an object; ``*`` crosses ``/``. Files are
    complete or absent. NotImplementedError for a local path.
    """
    source = to_text(model_path)
    if not is_remote(source):
        raise NotImplementedError(
            f"pull_files copies objects; {source!r} is a local path: use it as it is"
        )
    found, _ = pull_objects(source, to_text(dst), allow_pattern, ignore_pattern, s3_credentials)
    if not found:
        logger.warning(
            "pull_files: %s: no object below it matches, nothing was copied. Check the path and "
            "the patterns",
            shown_path(source),
        )


def list_files(
    prefix: Path,
    is_recursive: bool = True,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> list[tuple[str, int]]:
    """(path, size in bytes) of the files below `prefix`, sorted; patterns as in pull_files()."""
    directory = to_text(prefix)
    if is_remote(directory):
        found = list_objects(directory, is_recursive, s3_credentials)
        keys = [native.object_key(path) for path, _, _ in found]
    else:
        found = native.list_objects(to_native(directory), is_recursive)
        keys = [path for path, _, _ in found]
    return [
        (path, size)
        for key, (path, size, _) in zip(keys, found, strict=True)
        if matches(key, allow_patterns, ignore_patterns)
    ]
