"""S3 as a server of canned answers: an object, its ranges, and errors."""

from __future__ import annotations

import re

from runai_model_streamer import FileChunks, FileStreamer
from tests.support.servers.canned import Answer, Seen

DATA = bytes(range(256)) * 40


def error(status: int, code: str, extra: str = "", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>as told</Message>{extra}</Error>"
    return Answer(status, {"x-amz-request-id": "ID42", **headers}, body.encode())


def serve(seen: Seen, data: bytes = DATA) -> Answer:
    """The object, or a range of it."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
    if not found:
        return Answer(200, {"ETag": '"1"'}, data)
    first, last = int(found[1]), min(int(found[2]), len(data) - 1)
    headers = {"ETag": '"1"', "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Answer(206, headers, data[first : last + 1])


def listed(objects: dict[str, int]) -> Answer:
    """A list of keys and sizes."""
    entries = (f"<Contents><Key>{k}</Key><Size>{n}</Size></Contents>" for k, n in objects.items())
    return Answer(200, {}, f"<ListBucketResult>{''.join(entries)}</ListBucketResult>".encode())


def read(path: str = "s3://bucket/key", size: int = len(DATA)) -> bytes:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(0, path, 0, [size])])
        return b"".join(chunk.numpy().tobytes() for _, _, chunk in streamer.get_chunks())
