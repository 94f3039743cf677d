"""Streams a made-up checkpoint with the installed package: `smoke.py [FOLDER] [URI]`.

FOLDER (default: a temporary one) gets the checkpoint; URI is an object that is the same file, if
there is one. Needs nothing but the package and what it depends on.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import tempfile
import time

import torch

import runai_model_streamer as streamer


def make_checkpoint(path: str) -> dict[str, torch.Tensor]:
    # The same for every torch and processor, since others may hold a copy of the file.
    tensors = {
        f"layer.{i}.weight": (torch.arange(1000.0 * (100 + i)) % 8191 + i).reshape(1000, 100 + i)
        for i in range(20)
    }
    tensors["scalar"] = torch.tensor(3.5)
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        shape = list(tensor.shape)
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    return tensors


def check(path: str, tensors: dict[str, torch.Tensor]) -> None:
    start = time.monotonic()
    with streamer.SafetensorsStreamer() as loading:
        loading.stream_file(path)
        got = dict(loading.get_tensors())
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())
    print(f"streamed {path}: {len(got)} tensors, {time.monotonic() - start:.3f} s")


def check_library() -> None:
    """The C ABI lies where embedders of the package look for it."""
    folder = os.path.join(os.path.dirname(streamer.__file__), "libstreamer")
    library = ctypes.CDLL(os.path.join(folder, "lib", "libstreamer.so"))
    handle = ctypes.c_void_p()
    assert library.runai_file_streamer_start(ctypes.byref(handle)) == 0
    library.runai_file_streamer_end(handle)
    assert os.path.exists(os.path.join(folder, "include", "streamer", "runai_file_streamer.h"))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = sys.argv[1] if len(sys.argv) > 1 else temporary
        path = os.path.join(folder, "model.safetensors")
        tensors = make_checkpoint(path)
        assert streamer.list_safetensors(folder) == [path]
        check(path, tensors)
        for uri in sys.argv[2:]:
            check(uri, tensors)
        check_library()
    print(f"smoke test passed by {streamer.__file__}")


if __name__ == "__main__":
    main()
