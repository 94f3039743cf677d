"""Safetensors files to share, written without the package."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

ITEM_BYTES = {"F32": 4, "BF16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "I64": 8, "F64": 8}
Spec = tuple[str, str, tuple[int, ...]]


def write(path: Path, specs: list[Spec], seed: int = 0) -> dict[str, str]:
    """Writes the tensors in this order; returns a digest of each one's bytes."""
    generator = random.Random(f"{path.name} {seed}")
    header: dict[str, object] = {}
    blobs = []
    offset = 0
    for name, dtype, shape in specs:
        count = ITEM_BYTES[dtype]
        for dimension in shape:
            count *= dimension
        blob = generator.randbytes(count)
        if dtype == "BOOL":
            blob = bytes(byte & 1 for byte in blob)
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + count],
        }
        offset += count
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return {
        name: hashlib.sha256(blob).hexdigest()
        for (name, _, _), blob in zip(specs, blobs, strict=True)
    }


def mixture(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Files of every kind of tensor, and (name, digest) of each tensor in their order."""
    files = {
        "a": [
            ("flags", "BOOL", (13,)),
            ("scale", "F8_E4M3", (7, 5)),
            ("weight", "BF16", (300, 501)),
            ("empty", "F32", (0, 4)),
            ("scalar", "F64", ()),
            ("odd", "U8", (3,)),
            ("misaligned", "F32", (1000,)),
            ("large", "F32", (1024, 700)),
            *[(f"small.{i}", "BF16", (i + 1,)) for i in range(200)],
            ("last_empty", "BF16", (0,)),
        ],
        "b": [("alone", "F32", (1 << 18,))],
        "c": [("nothing", "F32", (0,))],
        "d": [("weight", "BF16", (40, 40)), ("ids", "I64", (77,))],
    }
    paths, expected = [], []
    for name, specs in files.items():
        path = folder / f"{name}.safetensors"
        digests = write(path, specs)
        paths.append(str(path))
        expected += [(tensor, digests[tensor]) for tensor, _, _ in specs]
    return paths, expected


def dense(folder: Path, files: int = 2, tensors: int = 12, size: int = 1 << 20) -> list[str]:
    """Equal tensors of `size` bytes, `tensors` in each file."""
    paths = []
    for number in range(files):
        path = folder / f"dense-{number}.safetensors"
        write(path, [(f"{number}.{i:02d}", "U8", (size,)) for i in range(tensors)])
        paths.append(str(path))
    return paths


def uneven(folder: Path) -> list[str]:
    """A megabyte in tensors of very different sizes, in two files."""
    generator = random.Random("uneven")
    paths = []
    for number in range(2):
        path = folder / f"uneven-{number}.safetensors"
        sizes = [int(10 ** generator.uniform(0, 5)) for _ in range(25)]
        write(path, [(f"{number}.{i:02d}", "U8", (size,)) for i, size in enumerate(sizes)])
        paths.append(str(path))
    return paths


def blobs(path: str) -> dict[str, bytes]:
    """Bytes of each tensor of a file, by its header."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {
        name: data[8 + length + info["data_offsets"][0] : 8 + length + info["data_offsets"][1]]
        for name, info in header.items()
    }


def digests(path: str) -> dict[str, str]:
    """Digest of each tensor of a file."""
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs(path).items()}
