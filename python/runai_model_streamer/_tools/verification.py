"""The comparison of the files of a model with a manifest, and the making of a manifest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerError, StreamerNotFoundError
from runai_model_streamer._paths import is_remote, to_text
from runai_model_streamer._storage.local import is_weights
from runai_model_streamer._storage.patterns import matches
from runai_model_streamer._storage.pull import JOURNAL, MARKS
from runai_model_streamer._tools.inspection import read_shards
from runai_model_streamer._tools.inventory import Entry, entries_of, relative_names
from runai_model_streamer._verify.hashing import Progress, hash_files
from runai_model_streamer._verify.manifest import (
    AUTO,
    BESIDE,
    Manifest,
    Verify,
    find_manifest,
    to_manifest,
)

OK, MISMATCH, MISSING, UNLISTED, FAILED = "ok", "mismatch", "missing", "unlisted", "failed"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """On one file."""

    name: str
    """Relative to the path that was verified."""
    result: str
    """ok; mismatch: other bytes; missing: in the manifest only; unlisted: not in the manifest;
    failed: it can't be read, or is no safetensors file."""
    text: str = ""
    sha256: str = ""
    expected: str = ""


@dataclasses.dataclass(frozen=True)
class Verification:
    """Of the files at a path."""

    path: str
    manifest: str | None
    """The manifest that the digests were compared with; None: there is none."""
    verdicts: list[Verdict]

    @property
    def good(self) -> bool:
        return all(verdict.result in (OK, UNLISTED) for verdict in self.verdicts)


def verify_files(
    path: str,
    manifest: Verify | None = None,
    credentials: S3Credentials | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Reads every file at and below `path` once: headers of safetensors files are checked, and
    checksums are compared with those of the store, if it has any, and with `manifest`.

    None: the manifest beside the files, if there is one. Files that it lists and that are not there
    are missing; those that it does not list are unlisted. Raises a StreamerError if `path` can't be
    listed or the manifest can't be read.
    """
    text = to_text(path)
    entries = entries_of(text, True, credentials)
    names = {name: entry for name, entry in relative_names(text, entries).items() if _is_ours(name)}
    found = _manifest_of(manifest, names, credentials)
    verdicts = {name: Verdict(name, OK) for name in names}
    by_path = {entry.path: name for name, entry in names.items()}
    weights = [entry.path for name, entry in names.items() if is_weights(name.rpartition("/")[2])]
    _, failures = read_shards(weights, credentials) if weights else ([], [])
    broken = {by_path[file]: str(error) for file, error in failures}
    for file, digest in hash_files([e.path for e in names.values()], credentials, progress):
        name = by_path[file]
        verdicts[name] = _judge(name, file, digest, broken.get(name), found)
    if found is not None:
        listed = {found.name_of(file) for file in by_path}
        for name in filter(_is_ours, found.digests.keys() - listed):
            if len(entries) == 1 and names.keys() != {name} and entries[0].path == text:
                continue  # one file of those that the manifest lists
            verdicts[name] = Verdict(
                name, MISSING, "the manifest lists it, and it is not there", "", found.digests[name]
            )
    if not verdicts:
        raise _nothing(text)
    ordered = [verdicts[name] for name in sorted(verdicts)]
    return Verification(text, None if found is None else found.origin, ordered)


def _nothing(path: str) -> StreamerError:
    return StreamerNotFoundError(
        f"{path}: there are no files of a model at or below this path. Check the path and the "
        "patterns",
        code="not_found",
        path=path,
    )


def _is_ours(name: str) -> bool:
    """True if a file is a part of the model: no manifest, and nothing that a pull has left."""
    last = name.rpartition("/")[2]
    return last not in {*BESIDE, *MARKS, JOURNAL} and not last.endswith(".part")


def _manifest_of(
    manifest: Verify | None, names: Mapping[str, Entry], credentials: S3Credentials | None
) -> Manifest | None:
    paths = [entry.path for entry in names.values()]
    if manifest is not None and manifest != AUTO:
        return to_manifest(manifest, paths, credentials)
    try:
        return find_manifest(paths, credentials)
    except StreamerNotFoundError:
        if manifest is None:
            return None
        raise


def _judge(
    name: str,
    file: str,
    digest: str | StreamerError,
    broken: str | None,
    manifest: Manifest | None,
) -> Verdict:
    if isinstance(digest, StreamerError):
        return Verdict(name, FAILED, str(digest))
    listed = None if manifest is None else manifest.name_of(file)
    expected = "" if manifest is None or listed is None else manifest.digests[listed]
    if expected and digest != expected:
        text = "its SHA-256 is not that of the manifest"
        return Verdict(name, MISMATCH, text, digest, expected)
    if broken is not None:
        return Verdict(name, FAILED, broken, digest, expected)
    if manifest is not None and listed is None:
        return Verdict(name, UNLISTED, "the manifest does not list it", digest)
    return Verdict(name, OK, "", digest, expected)


def digests_below(
    path: str,
    credentials: S3Credentials | None = None,
    progress: Progress | None = None,
    allow: list[str] | None = None,
    ignore: list[str] | None = None,
    but: str | None = None,
) -> dict[str, str]:
    """The SHA-256 of every file at and below `path` by its name there, but for manifests, and for
    the file `but`, which the result will replace. Patterns are those of fnmatch, over these names.
    Raises the error of the first file that can't be read."""
    text = to_text(path)
    left_out = None if but is None or is_remote(text) else os.path.realpath(but)
    found = relative_names(text, entries_of(text, True, credentials))
    names = {
        name: entry
        for name, entry in found.items()
        if _is_ours(name)
        and matches(name, allow or None, ignore)
        and (left_out is None or os.path.realpath(entry.path) != left_out)
    }
    if not names:
        raise _nothing(text)
    by_path = {entry.path: name for name, entry in names.items()}
    digests = {}
    for file, digest in hash_files([e.path for e in names.values()], credentials, progress):
        if isinstance(digest, StreamerError):
            raise digest
        digests[by_path[file]] = digest
    return dict(sorted(digests.items()))
