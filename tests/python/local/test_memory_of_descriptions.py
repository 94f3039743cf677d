"""What a load takes before the first byte of a tensor is read, for each tensor."""

from __future__ import annotations

from pathlib import Path

from tests.support.models import file_bytes
from tests.support.processes import python

FILES, TENSORS, BYTES = 100, 200, 2048 * 1824 * 2
MEASURE = """
import gc, sys, tracemalloc
import torch
from runai_model_streamer import SafetensorsStreamer

with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
tracemalloc.start()
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[1:])
    gc.collect()
    print(tracemalloc.get_traced_memory()[0])
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


def test_a_tensor_that_waits_takes_few_bytes_of_python(tmp_path: Path) -> None:
    paths = sparse_files(tmp_path)
    traced = int(python(MEASURE, *paths, RUNAI_STREAMER_MEMORY_LIMIT="0"))
    # A name of 49 bytes, an object, a number, and their places in lists.
    assert traced / (FILES * TENSORS) < 250
