"""Checkpoints to load: made once, kept on disk, and read back as the reference of every check.

Needs numpy only: neither torch nor any loader writes what loaders are compared on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
_BLOCK = 32 << 20


@dataclass(frozen=True)
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def llama_specs(gigabytes: float, hidden: int = 2048, vocabulary: int = 32000) -> list[TensorSpec]:
    """Tensors of a Llama-shaped model in bf16 of about `gigabytes` (1e9 bytes)."""
    intermediate, key_value = hidden * 11 // 4, hidden // 8

    def layer(index: int) -> list[TensorSpec]:
        prefix = f"model.layers.{index}."
        shapes = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, intermediate),
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (key_value, hidden),
        }
        return [
            TensorSpec(f"{prefix}{name}.weight", "BF16", shape) for name, shape in shapes.items()
        ]

    first = [TensorSpec("model.embed_tokens.weight", "BF16", (vocabulary, hidden))]
    last = [
        TensorSpec("model.norm.weight", "BF16", (hidden,)),
        TensorSpec("lm_head.weight", "BF16", (vocabulary, hidden)),
    ]
    fixed = sum(spec.nbytes for spec in first + last)
    per_layer = sum(spec.nbytes for spec in layer(0))
    layers = max(1, round((gigabytes * 1e9 - fixed) / per_layer))
    return first + [spec for index in range(layers) for spec in layer(index)] + last


def small_specs(count: int, nbytes: int = 8192) -> list[TensorSpec]:
    """`count` equal tensors, named as adapters or experts would be."""
    return [
        TensorSpec(f"experts.{i // 100}.adapter.{i % 100}.weight", "BF16", (nbytes // 2,))
        for i in range(count)
    ]


def shards(specs: list[TensorSpec], files: int) -> list[list[TensorSpec]]:
    """Splits into consecutive shards of about equal bytes."""
    total = sum(spec.nbytes for spec in specs)
    split: list[list[TensorSpec]] = [[] for _ in range(files)]
    done = 0
    for spec in specs:
        split[min(files - 1, done * files // total)].append(spec)
        done += spec.nbytes
    return split


def _random_blocks(nbytes: int, seed: list[int]) -> Iterator[memoryview]:
    generator = np.random.default_rng(seed)
    while nbytes > 0:
        take = min(nbytes, _BLOCK)
        words = generator.integers(0, 1 << 63, size=(take + 7) // 8, dtype=np.uint64)
        words &= np.uint64(0xBFFFBFFFBFFFBFFF)  # as bf16: finite numbers below 2
        yield words.view(np.uint8)[:take].data
        nbytes -= take


def write_shard(path: Path, specs: list[TensorSpec], seed: list[int]) -> None:
    """Writes one safetensors file of random numbers; tensors lie in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in sorted(specs, key=lambda s: s.name):
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in _random_blocks(offset, seed):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


def make(directory: Path, specs: list[TensorSpec], files: int, seed: int = 0) -> list[str]:
    """Makes the checkpoint in `directory` unless it is there, and returns its files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    recipe = directory / "recipe.txt"
    wanted = f"{files} {seed} " + "\n".join(f"{s.name} {s.dtype} {s.shape}" for s in specs)
    if not (recipe.exists() and recipe.read_text() == wanted and all(p.exists() for p in paths)):
        recipe.unlink(missing_ok=True)
        for i, (path, shard) in enumerate(zip(paths, shards(specs, files), strict=True)):
            write_shard(path, shard, [seed, i])
        recipe.write_text(wanted)
    return [str(path) for path in paths]


def dense(directory: Path, gigabytes: float = 2.9) -> list[str]:
    return make(directory, llama_specs(gigabytes), files=4)


def small(directory: Path, count: int = 60_000) -> list[str]:
    return make(directory, small_specs(count), files=4)


def manifest(files: list[str]) -> str:
    """The path of SHA256SUMS beside `files`; makes it unless there is one that is newer."""
    path = Path(files[0]).with_name("SHA256SUMS")
    newest = max(os.path.getmtime(file) for file in files)
    if not path.exists() or path.stat().st_mtime < newest:
        lines = [f"{sha256(file)}  {os.path.basename(file)}\n" for file in files]
        path.write_text("".join(lines))
    return str(path)


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(8 << 20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def total_bytes(files: Iterable[str]) -> int:
    return sum(os.path.getsize(file) for file in files)


class Reference(Mapping[str, np.ndarray]):
    """The bytes of every tensor of a checkpoint, straight from its files: what must come out."""

    def __init__(self, files: Iterable[str]) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        self.specs: dict[str, TensorSpec] = {}
        for path in files:
            data = np.memmap(path, dtype=np.uint8, mode="r")
            (length,) = struct.unpack("<Q", data[:8].tobytes())
            body = 8 + length
            for name, info in json.loads(data[8:body].tobytes()).items():
                if name == "__metadata__":
                    continue
                begin, end = info["data_offsets"]
                self._tensors[name] = data[body + begin : body + end]
                self.specs[name] = TensorSpec(name, info["dtype"], tuple(info["shape"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
