"""Paths: files, and URIs of objects."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterable

from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, shown_path

Path = str | os.PathLike[str]


def to_text(path: Path) -> str:
    """`path` as text, not normalised. A file:// URI becomes a path, and so does a ~, unless a file
    has that name.

    Raises RunaiStreamerInvalidInputException if it is not a path.
    """
    text: object = path
    if isinstance(path, os.PathLike):
        text = os.fspath(path)
    if not isinstance(text, str):
        raise RunaiStreamerInvalidInputException(f"a path is text, not {type(text).__name__}")
    if "\0" in text:
        raise RunaiStreamerInvalidInputException(f"a path must not contain a zero byte: {text!r}")
    if text[:7].lower() == "file://":
        return _of_uri(text)
    if text.startswith("~") and not os.path.lexists(text):
        return os.path.expanduser(text)
    return text


def to_texts(paths: Iterable[Path], other: str = "") -> list[str]:
    """to_text() of each of `paths`. Raises RunaiStreamerInvalidInputException for a single path;
    `other` names the function that takes one."""
    if isinstance(paths, str | bytes) or hasattr(paths, "__fspath__"):
        raise RunaiStreamerInvalidInputException(f"stream_files() takes a list of paths{other}")
    return [to_text(path) for path in paths]


def _of_uri(uri: str) -> str:
    host, slash, path = uri[7:].partition("/")
    if host not in ("", "localhost") or not slash:
        raise RunaiStreamerInvalidInputException(
            f"{uri}: a file URI is file:///directory/file, of this machine", path=uri
        )
    return "/" + urllib.parse.unquote(path, errors="surrogateescape")


def is_remote(path: str) -> bool:
    """True if `path` is a URI that is read over a network."""
    return native.source_kind(to_native(path)) != "file"


def is_url(path: str) -> bool:
    """True if `path` is percent-encoded and may have a query: https:// and http://."""
    return native.is_url(to_native(path))


def to_native(path: str) -> str | bytes:
    """`path` for the native module: the bytes of a name that is not UTF-8."""
    try:
        return path if path.isascii() else path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RunaiStreamerInvalidInputException(
            f"a path is text that can be encoded: {path!r}"
        ) from None


def check_not_mixed(paths: Iterable[str]) -> None:
    """One call reads files or objects, not both."""
    first: dict[bool, str] = {}
    for path in paths:
        first.setdefault(is_remote(path), path)
    if len(first) > 1:
        raise RunaiStreamerInvalidInputException(
            "local and remote paths can't be mixed in one call: "
            f"{first[False]!r} is a file, {shown_path(first[True])!r} is an object"
        )
