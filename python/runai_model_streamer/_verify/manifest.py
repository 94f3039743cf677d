"""Manifests: the SHA-256 that each file of a model must have.

Read are `SHA256SUMS` (as sha256sum writes it, and the BSD form), the statement of OpenSSF
model-signing (bare, as a DSSE envelope or as a Sigstore bundle), and the digests of large files
that the hub lists.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import certificates as certificates
from runai_model_streamer._credentials import make_provider
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerDigestError,
    StreamerNotFoundError,
    StreamerPermissionError,
    StreamerUnsupportedError,
    shown_path,
)
from runai_model_streamer._paths import Path, is_remote, to_native, to_text
from runai_model_streamer._storage.checkpoint import read_small_file

AUTO = "auto"
BESIDE = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "model.sig")
"""The names of manifests beside a model, in the order in which they are looked for."""

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_GNU = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>[^\0]+)")
_BSD = re.compile(r"(?P<escaped>\\?)SHA256 \((?P<name>[^\0]+)\) = (?P<digest>[0-9a-fA-F]{64})")
_ESCAPE = re.compile(r"\\(.)")
_LIMIT = 64 << 20


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The SHA-256 of files, by their names relative to the directory of the model."""

    digests: Mapping[str, str]
    """In small letters."""
    origin: str = "the caller"
    """Its origin, for errors."""

    def name_of(self, path: str) -> str | None:
        """The name that the file at `path` has here: the longest end of its path that is one."""
        parts = _parts(path)
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in self.digests:
                return name
        return None

    def digest_of(self, path: str) -> str:
        """The SHA-256 that the file at `path` must have.

        Raises StreamerNotFoundError if it is not listed.
        """
        name = self.name_of(path)
        if name is None:
            raise StreamerNotFoundError(
                f"{path}: it can't be verified: {self.origin} does not list it. Use a manifest of "
                "all files, or leave verify out",
                code="not_found",
                path=path,
            )
        return self.digests[name]


Verify = Path | Mapping[str, str] | Manifest


def to_manifest(
    verify: Verify, paths: Iterable[str], credentials: S3Credentials | None = None
) -> Manifest:
    """The manifest for files at `paths`. `verify` is one, its path, digests by name, or "auto".

    Raises a StreamerError if there is no such manifest, or it can't be parsed.
    """
    if isinstance(verify, Manifest):
        return verify
    if isinstance(verify, Mapping):
        return Manifest({name: _checked(name, value) for name, value in verify.items()})
    text = to_text(verify)
    if text != AUTO:
        return read_manifest(text, credentials)
    return find_manifest(list(paths), credentials)


def _checked(name: str, digest: object) -> str:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise RunaiStreamerInvalidInputException(
            f"verify: the SHA-256 of {name!r} is not 64 hexadecimal digits"
        )
    return digest.lower()


def find_manifest(paths: list[str], credentials: S3Credentials | None = None) -> Manifest:
    """The manifests beside the files at `paths`, or in the directory above. Of files of the hub:
    the digests that it lists, and of those in its local cache: their names there.

    Raises StreamerNotFoundError if there is none.
    """
    merged: dict[str, str] = {}
    origins: list[str] = []
    directories: dict[str, None] = {}
    for path in paths:
        directories[_parent(path)] = None
    above = [_parent(directory) for directory in directories if not lists_digests(directory)]
    for directory in [*directories, *above]:
        found = _of_directory(directory, credentials)
        if found is not None and found.origin not in origins:
            merged = {**found.digests, **merged}
            origins.append(found.origin)
    cached = _of_cache(paths)
    if cached:
        merged = {**cached, **merged}
        origins.append("the cache of the hub")
    if not origins:
        first = paths[0] if paths else ""
        raise StreamerNotFoundError(
            f"{first}: there is no manifest beside it: looked for {', '.join(BESIDE)}. "
            "`model-streamer manifest` writes one",
            code="not_found",
            path=first or None,
        )
    return Manifest(merged, " and ".join(origins))


def _of_directory(directory: str, credentials: S3Credentials | None) -> Manifest | None:
    if lists_digests(directory):
        found = listed_digests(directory)
        if found:
            return Manifest(found, "the hub")
    for name in BESIDE:
        try:
            return read_manifest(_join(directory, name), credentials)
        except (StreamerNotFoundError, StreamerPermissionError):
            # To a caller that may not list, stores report a missing object as forbidden.
            continue
    return None


def lists_digests(path: str) -> bool:
    """True if listed_digests() finds any in directories like `path`."""
    return native.lists_digests(to_native(path))


def listed_digests(directory: str) -> dict[str, str]:
    """The SHA-256 of large files in `directory`, from its list."""
    found = native.list_digests(directory, False, make_provider(), certificates.fallback())
    return {
        "/".join(_parts(path)): digest.lower()
        for path, digest in found.items()
        if _DIGEST.fullmatch(digest)
    }


def _of_cache(paths: list[str]) -> dict[str, str]:
    """The local cache of the hub names the content of a large file by its SHA-256."""
    found = {}
    for path in paths:
        if not is_remote(path):
            directory, name = os.path.split(os.path.realpath(path))
            if _DIGEST.fullmatch(name) and os.path.basename(directory) == "blobs":
                found["/".join(_parts(path))] = name.lower()
    return found


def _parts(path: str) -> list[str]:
    plain = path.partition("?")[0] if "://" in path else path
    return [part for part in plain.split("/") if part not in ("", ".")]


def _parent(path: str) -> str:
    plain, mark, query = path.partition("?") if "://" in path else (path, "", "")
    head = plain.rstrip("/").rpartition("/")[0]
    if "://" in plain and head.endswith(":/"):  # there is nothing above a bucket
        return path
    return head + mark + query if head or not plain.startswith("/") else "/"


def _join(directory: str, name: str) -> str:
    if "://" in directory:
        plain, mark, query = directory.partition("?")
        return plain.rstrip("/") + "/" + name + mark + query
    return os.path.join(directory, name)


def read_manifest(path: Path, credentials: S3Credentials | None = None) -> Manifest:
    """The manifest at `path`, of any of the forms; local or remote.

    Raises RunaiStreamerInvalidInputException if it is none, StreamerUnsupportedError for digests
    other than SHA-256 of whole files.
    """
    text = to_text(path)
    return parse_manifest(read_small_file(text, credentials, _LIMIT), shown_path(text))


def parse_manifest(data: bytes, origin: str) -> Manifest:
    """The manifest of these bytes; `origin` names it in errors."""
    data = data.removeprefix(codecs.BOM_UTF8)  # editors of Windows write it
    if data.lstrip()[:1] == b"{":
        return Manifest(_of_statement(data, origin), origin)
    return Manifest(_of_sums(data, origin), origin)


def _of_sums(data: bytes, origin: str) -> dict[str, str]:
    found: dict[str, str] = {}
    text = data.decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        parts = _GNU.fullmatch(line) or _BSD.fullmatch(line)
        if parts is None:
            raise RunaiStreamerInvalidInputException(
                f"{origin}: line {number} is no SHA-256 and name of a file", path=origin
            )
        name = parts["name"]
        if parts["escaped"]:
            name = _ESCAPE.sub(lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
        _add(found, name, parts["digest"], origin)
    if not found:
        raise RunaiStreamerInvalidInputException(f"{origin}: the manifest is empty", path=origin)
    return found


def _add(found: dict[str, str], name: str, digest: str, origin: str) -> None:
    while name.startswith("./"):
        name = name[2:]
    digest = digest.lower()
    if found.setdefault(name, digest) != digest:
        raise RunaiStreamerInvalidInputException(
            f"{origin}: it has two digests of {name!r}", path=origin
        )


def _of_statement(data: bytes, origin: str) -> dict[str, str]:
    try:
        statement = _unwrapped(json.loads(data))
        resources = statement["predicate"]["resources"]
        entries = [(one["name"], one["algorithm"], one["digest"]) for one in resources]
        if not all(isinstance(value, str) for entry in entries for value in entry):
            raise TypeError
        subject = statement["subject"][0]["digest"]["sha256"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise RunaiStreamerInvalidInputException(
            f"{origin}: it is neither a list of SHA-256 nor a manifest of model-signing",
            path=origin,
        ) from None
    found: dict[str, str] = {}
    joined = hashlib.sha256()
    for name, algorithm, digest in entries:
        if algorithm != "sha256" or not _DIGEST.fullmatch(digest):
            raise StreamerUnsupportedError(
                f"{origin}: the digest of {name!r} is of {algorithm!r}: only SHA-256 of whole "
                "files is read",
                code="unsupported",
                path=origin,
            )
        joined.update(bytes.fromhex(digest))
        _add(found, name, digest, origin)
    if joined.hexdigest() != subject:
        raise RunaiStreamerInvalidInputException(
            f"{origin}: the digest of the whole is not that of its entries: it was changed",
            path=origin,
        )
    return found


def _unwrapped(document: Any) -> Any:
    """The statement in a Sigstore bundle or a DSSE envelope, or the statement itself."""
    envelope = document.get("dsseEnvelope", document)
    if "payload" not in envelope:
        return envelope
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
    except binascii.Error:
        raise ValueError from None
    return json.loads(payload)


def format_sums(digests: Mapping[str, str]) -> str:
    """`SHA256SUMS` of these digests, as sha256sum writes it and checks it, sorted by name."""
    lines = []
    for name in sorted(digests):
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != name else ""
        lines.append(f"{mark}{digests[name]}  {escaped}\n")
    return "".join(lines)


def format_statement(digests: Mapping[str, str], name: str) -> str:
    """The in-toto statement of OpenSSF model-signing, without a signature, sorted by name."""
    names = sorted(digests)
    joined = hashlib.sha256(b"".join(bytes.fromhex(digests[one]) for one in names))
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": joined.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": one, "algorithm": "sha256", "digest": digests[one]} for one in names
            ],
        },
    }
    return json.dumps(statement, indent=2, ensure_ascii=False) + "\n"


def check(path: str, expected: str, actual: str, origin: str) -> None:
    """Raises StreamerDigestError if `actual`, of the file at `path`, is not that of `origin`."""
    if actual != expected:
        raise StreamerDigestError(
            f"{path}: its SHA-256 is {actual}, but {expected} in {origin}. Do not use what was "
            "read of it; copy the file again",
            code="digest",
            path=path,
        )
