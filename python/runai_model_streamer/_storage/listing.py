"""Finding and fetching the files of a model."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._paths import Path, is_remote, to_text
from runai_model_streamer._storage.patterns import matches
from runai_model_streamer._storage.pull import (
    list_objects,
    list_safetensors_objects,
    pull_objects,
)


def list_safetensors(path: Path, s3_credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors files directly in the folder `path`, sorted; none: an empty list.

    Each is the folder as it was given, and the name.
    """
    folder = to_text(path)
    if not is_remote(folder):
        pattern = os.path.join(glob.escape(folder), "*.safetensors")
        return sorted(name for name in glob.glob(pattern) if os.path.isfile(name))
    return list_safetensors_objects(folder, s3_credentials)


def pull_files(
    model_path: Path,
    dst: Path,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Copies the objects below the URI `model_path` into the folder `dst`.

    Patterns are those of fnmatch, over the whole key of an object; ``*`` crosses ``/``. Files are
    complete or absent. NotImplementedError for a local path.
    """
    source = to_text(model_path)
    if not is_remote(source):
        raise NotImplementedError(
            f"pull_files copies objects; {source!r} is a local path: use it as it is"
        )
    pull_objects(source, to_text(dst), allow_pattern, ignore_pattern, s3_credentials)


def list_files(
    prefix: Path,
    is_recursive: bool = True,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> list[tuple[str, int]]:
    """(path, size in bytes) of what is below `prefix`, sorted; patterns as in pull_files()."""
    folder = to_text(prefix)
    if is_remote(folder):
        found = list_objects(folder, is_recursive, s3_credentials)
        keys = [native.object_key(path) for path, _ in found]
    else:
        found = native.list_objects(folder, is_recursive)
        keys = [path for path, _ in found]
    return [
        entry
        for key, entry in zip(keys, found, strict=True)
        if matches(key, allow_patterns, ignore_patterns)
    ]
