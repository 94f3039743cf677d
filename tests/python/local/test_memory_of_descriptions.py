"""What a load takes before the first byte of a tensor is read, for each tensor."""

from __future__ import annotations

from pathlib import Path

from tests.support.models import file_bytes
from tests.support.processes import python

FILES, TENSORS, BYTES = 100, 200, 2048 * 1824 * 2
MEASURE = """
import ctypes, gc, sys, tracemalloc
import torch
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[2])

class MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo

def in_use():
    if sys.argv[1] == "python":
        return tracemalloc.get_traced_memory()[0]
    found = libc.mallinfo2()
    return found.uordblks + found.hblkhd

if sys.argv[1] == "python":
    tracemalloc.start()
before = in_use()
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[2:])
    gc.collect()
    print(in_use() - before)
"""


def sparse_files(directory: Path) -> list[str]:
    paths = []
    for number in range(FILES):
        header = {
            f"model.layers.{number}.mlp.experts.{i}.down_proj.weight": {
                "dtype": "BF16",
                "shape": [2048, 1824],
                "data_offsets": [i * BYTES, (i + 1) * BYTES],
            }
            for i in range(TENSORS)
        }
        path = directory / f"{number:03}.safetensors"
        head = file_bytes(header)
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(len(head) + TENSORS * BYTES)
        paths.append(str(path))
    return paths


def bytes_for_each(allocator: str, directory: Path, **environment: str) -> float:
    paths = sparse_files(directory)
    environment["RUNAI_STREAMER_MEMORY_LIMIT"] = "0"
    return int(python(MEASURE, allocator, *paths, **environment)) / (FILES * TENSORS)


def test_a_tensor_that_waits_takes_few_bytes_of_python(tmp_path: Path) -> None:
    # A name of 49 bytes, an object, and their places in lists.
    assert bytes_for_each("python", tmp_path) < 200


def test_a_tensor_that_waits_takes_few_bytes_in_all(tmp_path: Path) -> None:
    # Python allocates with malloc(), too, which counts what it adds to each allocation.
    assert bytes_for_each("malloc", tmp_path, PYTHONMALLOC="malloc") < 300
