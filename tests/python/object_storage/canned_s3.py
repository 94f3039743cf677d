"""S3 as a server of canned answers: an object, its ranges, and errors."""

from __future__ import annotations

from runai_model_streamer import FileChunks, FileStreamer
from tests.support.servers.canned import Answer, Seen, ranged

DATA = bytes(range(256)) * 40


def error(status: int, code: str, extra: str = "", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>as told</Message>{extra}</Error>"
    return Answer(status, {"x-amz-request-id": "ID42", **headers}, body.encode())


def serve(seen: Seen, data: bytes = DATA) -> Answer:
    """The object, or a range of it."""
    return ranged(seen, data)


def listed(objects: dict[str, int]) -> Answer:
    """A list of keys and sizes."""
    entries = (f"<Contents><Key>{k}</Key><Size>{n}</Size></Contents>" for k, n in objects.items())
    return Answer(200, {}, f"<ListBucketResult>{''.join(entries)}</ListBucketResult>".encode())


def read(path: str = "s3://bucket/key", size: int = len(DATA)) -> bytes:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(0, path, 0, [size])])
        return b"".join(chunk.numpy().tobytes() for _, _, chunk in streamer.get_chunks())
