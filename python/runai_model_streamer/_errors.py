"""Exceptions. All derive from StreamerError, which is a ValueError."""

from __future__ import annotations

from typing import Any

from runai_model_streamer import _native


def shown_path(path: str) -> str:
    """`path` without secrets: a URL without its user and its query, which may grant access."""
    try:
        path.encode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        path = path.encode(errors="backslashreplace").decode()
    return _native.shown_path(path)


def shown_text(text: str) -> str:
    """`text` on one line, without secrets and control characters."""
    return _native.shown_text(text.encode(errors="backslashreplace").decode())


class StreamerError(ValueError):
    """Something could not be streamed.

    Attributes (None if they do not apply): ``code`` (a word, e.g. ``"not_found"``), ``path``,
    ``offset`` and ``size`` of the byte range, ``errno``, ``http_status``, ``server_code``,
    ``request_id``, ``endpoint`` (the URL of the service, and its source), ``identity`` (the
    credentials that were used, never a secret), ``hint`` (the remedy) and ``attempts`` (the number
    of tries, if more than one). If ranks share the reading, ``rank`` and ``host`` are those of the
    failure.
    """

    code: str
    path: str | None
    offset: int | None
    size: int | None
    errno: int | None
    http_status: int | None
    server_code: str | None
    request_id: str | None
    endpoint: str | None
    identity: str | None
    hint: str | None
    attempts: int | None
    rank: int | None = None
    host: str | None = None

    def __init__(
        self, text: str = "", *, code: str = "invalid", **fields: str | int | None
    ) -> None:
        path = fields.get("path")
        if isinstance(path, str) and path:
            fields["path"] = shown = shown_path(path)
            text = text.replace(path, shown)
        super().__init__(shown_text(text))
        self.code = code
        for name in FIELDS:
            value = fields.get(name) or None
            if isinstance(value, str) and name != "path":  # that is data: as the caller gave it
                value = shown_text(value)
            setattr(self, name, value)
        for name in ("offset", "size"):  # zero is a value if the range is known
            setattr(self, name, fields.get(name))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        fields = {name: getattr(self, name) for name in FIELDS}
        return _rebuild, (type(self), str(self), self.code, fields, self.rank, self.host)


FIELDS = (
    "path",
    "offset",
    "size",
    "errno",
    "http_status",
    "server_code",
    "request_id",
    "endpoint",
    "identity",
    "hint",
    "attempts",
)


def _rebuild(
    kind: type[StreamerError],
    text: str,
    code: str,
    fields: dict[str, Any],
    rank: int | None,
    host: str | None,
) -> StreamerError:
    error = kind(text, code=code, **fields)
    error.rank, error.host = rank, host
    return error


class RunaiStreamerInvalidInputException(StreamerError):
    """The arguments or a setting can't be used."""


def of_file(
    error: RunaiStreamerInvalidInputException, path: str
) -> RunaiStreamerInvalidInputException:
    """`error` about an argument, as one about a tensor of the file at `path`."""
    if error.path is not None:
        return error
    return RunaiStreamerInvalidInputException(f"{path}: {error}", path=path)


class RunaiStreamerMemoryLimitException(StreamerError):
    """The memory limit is below what the request needs."""


class SafetensorsHeaderError(StreamerError):
    """The file is not a safetensors file, or its header contradicts itself."""


class StreamerNotFoundError(StreamerError, FileNotFoundError):
    """No such file, object or bucket."""


class StreamerPermissionError(StreamerError, PermissionError):
    """Refused by the file system or the server, or no usable identity."""


class StreamerTimeoutError(StreamerError, TimeoutError):
    """Nothing arrived within a timeout."""


class StreamerIOError(StreamerError, OSError):
    """The storage or the network failed."""


class StreamerShortReadError(StreamerIOError):
    """The object ends before the range that was requested, or that its header describes."""


class StreamerChangedError(StreamerIOError):
    """The object was replaced or modified while it was read."""


class StreamerDigestError(StreamerIOError):
    """The content of a file does not match the manifest."""


class StreamerOutOfMemoryError(StreamerError, MemoryError):
    """The system or the device has no memory left."""


class StreamerUnsupportedError(StreamerError, NotImplementedError):
    """This build or this platform can't do it."""


class StreamerImportError(StreamerError, ImportError):
    """An optional package is not installed; the text contains the command that installs it."""


class StreamerDeviceError(StreamerError):
    """A GPU or its driver failed."""


class StreamerClosedError(StreamerError):
    """The streamer was closed while the call waited."""


_BY_CODE: dict[str, type[StreamerError]] = {
    "invalid": RunaiStreamerInvalidInputException,
    "not_found": StreamerNotFoundError,
    "permission": StreamerPermissionError,
    "credentials": StreamerPermissionError,
    "io": StreamerIOError,
    "network": StreamerIOError,
    "throttled": StreamerIOError,
    "short_read": StreamerShortReadError,
    "changed": StreamerChangedError,
    "digest": StreamerDigestError,
    "memory_limit": RunaiStreamerMemoryLimitException,
    "out_of_memory": StreamerOutOfMemoryError,
    "timeout": StreamerTimeoutError,
    "cancelled": StreamerClosedError,
    "unsupported": StreamerUnsupportedError,
    "device": StreamerDeviceError,
    "package": StreamerImportError,
    "format": SafetensorsHeaderError,
}


def from_native(code: str, text: str, fields: dict[str, Any]) -> StreamerError:
    """The exception for an error of the native engine."""
    known = {name: fields[name] for name in FIELDS if name in fields}
    return _BY_CODE.get(code, StreamerError)(text, code=code, **known)
