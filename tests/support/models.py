"""Checkpoints of small models: files in the safetensors format, written tensor by tensor or byte by
byte, and the loads and comparisons of tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer

MIB = 1 << 20
Tensors = Mapping[str, torch.Tensor]


def make_model(megabytes: int, tensors: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random bytes in tensors layer.0, layer.1, ... of uneven sizes."""
    generator = torch.Generator().manual_seed(seed)
    rest = megabytes << 20
    model = {}
    shares = random.Random(seed)
    for index in range(tensors):
        size = rest if index == tensors - 1 else shares.randint(1, 2 * rest // (tensors - index))
        rest -= min(size, rest)
        model[f"layer.{index}"] = torch.randint(
            0, 256, (max(size, 1),), dtype=torch.uint8, generator=generator
        )
    return model


def save(model: dict[str, torch.Tensor]) -> bytes:
    """The contents of a file of these tensors."""
    return safetensors.torch.save(model)


def save_floats(path: Path, sizes: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Writes a file of float32 tensors t0000, t0001, ... of `sizes` elements."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"t{i:04}": torch.randn(n, generator=generator) for i, n in enumerate(sizes)}
    safetensors.torch.save_file(tensors, path)
    return tensors


def file_bytes(header: Any, data: bytes = b"") -> bytes:
    """The contents of a file with this header: its bytes, or an object that is written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(path: Path, header: Any, data: bytes = b"") -> str:
    path.write_bytes(file_bytes(header, data))
    return str(path)


def load(
    paths: str | os.PathLike[str] | list[Any], credentials: Any = None, **options: Any
) -> dict[str, torch.Tensor]:
    """All tensors of one file or of several."""
    with SafetensorsStreamer() as streamer:
        paths = paths if isinstance(paths, list) else [paths]
        streamer.stream_files(paths, s3_credentials=credentials, **options)
        return dict(streamer.get_tensors())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same bytes, shape and dtype."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*raw)


def check_same(expected: Tensors, found: Tensors) -> None:
    """The same names, and for each the same bytes, shape, dtype and device."""
    assert sorted(expected) == sorted(found)
    for name, tensor in expected.items():
        assert found[name].device == tensor.device, name
        assert same(tensor, found[name]), name


ITEM_BYTES = {"F32": 4, "BF16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "I64": 8, "F64": 8}
Spec = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of a tensor."""


def write_specs(path: Path, specs: list[Spec], seed: int = 0) -> dict[str, str]:
    """Writes random tensors in this order, without the safetensors package; returns a digest of the
    bytes of each one.
    """
    generator = random.Random(f"{path.name} {seed}")
    header: dict[str, object] = {}
    contents = []
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
        contents.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(path, text, b"".join(contents))
    return {
        name: hashlib.sha256(blob).hexdigest()
        for (name, _, _), blob in zip(specs, contents, strict=True)
    }


def mixture(directory: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Files with every kind of tensor, and (name, digest) of each tensor in their order."""
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
        path = directory / f"{name}.safetensors"
        digests = write_specs(path, specs)
        paths.append(str(path))
        expected += [(tensor, digests[tensor]) for tensor, _, _ in specs]
    return paths, expected


def dense(directory: Path, files: int = 2, tensors: int = 12, size: int = 1 << 20) -> list[str]:
    """Files of `tensors` tensors of `size` bytes each."""
    paths = []
    for number in range(files):
        path = directory / f"dense-{number}.safetensors"
        write_specs(path, [(f"{number}.{i:02d}", "U8", (size,)) for i in range(tensors)])
        paths.append(str(path))
    return paths


def uneven(directory: Path) -> list[str]:
    """60 KB in tensors of very different sizes, in two files."""
    generator = random.Random("uneven")
    paths = []
    for number in range(2):
        path = directory / f"uneven-{number}.safetensors"
        sizes = [int(10 ** generator.uniform(0, 4)) for _ in range(25)]
        write_specs(path, [(f"{number}.{i:02d}", "U8", (size,)) for i, size in enumerate(sizes)])
        paths.append(str(path))
    return paths


def blobs(path: str) -> dict[str, bytes]:
    """The bytes of each tensor of a file, found by its header."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {
        name: data[8 + length + info["data_offsets"][0] : 8 + length + info["data_offsets"][1]]
        for name, info in header.items()
    }


def digests(path: str) -> dict[str, str]:
    """The digest of the bytes of each tensor of a file."""
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs(path).items()}
