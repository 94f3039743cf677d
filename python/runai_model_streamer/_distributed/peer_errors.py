"""Errors of ranks on their way to the others."""

from __future__ import annotations

import json
from typing import Any

from runai_model_streamer import _errors as errors
from runai_model_streamer._errors import StreamerError, StreamerTimeoutError


class PeerError(StreamerTimeoutError):
    """Another rank is gone, left the stream, or did not answer in time."""


class Abandoned(Exception):
    """This rank stopped before the end of the stream."""


def encode_error(error: BaseException, rank: int, host: str) -> bytes:
    """`error` for the other ranks."""
    described: dict[str, Any] = {"rank": rank, "host": host, "kind": type(error).__name__}
    if isinstance(error, StreamerError):
        described["code"] = error.code
        described["text"] = str(error)
        described["fields"] = {
            name: getattr(error, name) for name in errors.FIELDS if getattr(error, name) is not None
        }
        described["where"] = [error.rank, error.host]
    else:
        described["code"] = ""
        described["text"] = f"{type(error).__name__}: {error}"
        if isinstance(error, Abandoned):
            described["text"] = str(error)
    return json.dumps(described).encode()


def located(error: StreamerError, rank: int, host: str) -> StreamerError:
    """`error`, saying on which rank it happened."""
    if error.rank is None:
        error.args = (f"rank {rank} on {host}: {error}", *error.args[1:])
        error.rank = rank
        error.host = host
    return error


def decode_error(data: bytes) -> StreamerError:
    """The error of another rank: of the same type, and with its rank and host."""
    described = json.loads(data)
    rank, host = described["rank"], described["host"]
    fields = described.get("fields", {})
    if described["kind"] in ("Abandoned", "PeerError"):
        error: StreamerError = PeerError(described["text"], code="timeout", **fields)
    elif described["code"]:
        error = errors.from_native(described["code"], described["text"], fields)
    else:
        error = StreamerError(described["text"])
    where = described.get("where", [None, None])
    if where[0] is not None:
        error.rank, error.host = where
        return error
    return located(error, rank, host)
