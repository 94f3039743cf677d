"""Streams a made-up checkpoint with the installed package: `smoke.py [DIRECTORY] [URI]`.

DIRECTORY (default: a temporary one) gets the checkpoint; URI is an object that is the same file, if
there is one. Needs nothing but the package and what it depends on; without torch, it loads arrays
of numpy.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import struct
import sys
import tempfile
import time

import numpy

import runai_model_streamer as streamer
from runai_model_streamer.numpy import load_file

torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
Arrays = dict[str, "numpy.ndarray"]


def make_checkpoint(path: str) -> Arrays:
    # The same on every processor, since others may hold a copy of the file.
    tensors: Arrays = {
        f"layer.{i}.weight": numpy.arange(1000 * (100 + i)).reshape(1000, 100 + i) % 8191 + i
        for i in range(20)
    }
    tensors["scalar"] = numpy.array(3.5)
    tensors = {name: tensor.astype(numpy.float32) for name, tensor in tensors.items()}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        shape = list(tensor.shape)
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    return tensors


def load(path: str) -> Arrays:
    if torch is None:
        return load_file(path)
    with streamer.SafetensorsStreamer() as loading:
        loading.stream_file(path)
        return {name: tensor.numpy() for name, tensor in loading.get_tensors()}


def check(path: str, tensors: Arrays) -> None:
    start = time.monotonic()
    got = load(path)
    assert got.keys() == tensors.keys()
    assert all(numpy.array_equal(got[name], tensor) for name, tensor in tensors.items())
    print(f"streamed {path}: {len(got)} tensors, {time.monotonic() - start:.3f} s")


def check_library() -> None:
    """The C ABI is at the path that embedders of the package use."""
    directory = os.path.join(os.path.dirname(streamer.__file__), "libstreamer")
    library = ctypes.CDLL(os.path.join(directory, "lib", "libstreamer.so"))
    handle = ctypes.c_void_p()
    assert library.runai_file_streamer_start(ctypes.byref(handle)) == 0
    library.runai_file_streamer_end(handle)
    assert os.path.exists(os.path.join(directory, "include", "streamer", "runai_file_streamer.h"))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = sys.argv[1] if len(sys.argv) > 1 else temporary
        path = os.path.join(directory, "model.safetensors")
        tensors = make_checkpoint(path)
        assert streamer.list_safetensors(directory) == [path]
        check(path, tensors)
        for uri in sys.argv[2:]:
            check(uri, tensors)
        check_library()
    what = f"torch {torch.__version__}" if torch else "numpy alone"
    print(f"smoke test passed by {streamer.__file__}, with {what}")


if __name__ == "__main__":
    main()
