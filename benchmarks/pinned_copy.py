"""What the link gives: python -m benchmarks.pinned_copy DEVICE FILE...

Copies as many bytes as the files have from two pinned buffers in turn. With --register the bytes
are the files' own: blocks of a mapping are pinned, copied from and let go, by four threads. That is
the other way to load what is in the page cache, and the reason why the engine does not go it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import threading
import time
import warnings

import numpy as np
import torch

from benchmarks import devices

_BLOCK = 64 << 20
_THREADS = 4


def copy_pinned(gpu: devices.Target, total: int) -> float:
    host = [gpu.pinned(_BLOCK) for _ in range(2)]
    there = gpu.zeros((2 * _BLOCK,), torch.uint8)

    def run(size: int) -> None:
        for index, start in enumerate(range(0, size, _BLOCK)):
            count, place = min(_BLOCK, size - start), index % 2 * _BLOCK
            there[place : place + count].copy_(host[index % 2][:count], non_blocking=True)
        gpu.synchronize()

    run(min(total, 1 << 30))
    begin = time.perf_counter()
    run(total)
    return time.perf_counter() - begin


def copy_registered(gpu: devices.Target, files: list[str]) -> float:
    blocks = [
        (file, start)
        for file in files
        for start in range(0, os.path.getsize(file), _BLOCK)
    ]  # fmt: skip
    there = gpu.zeros((_THREADS * _BLOCK,), torch.uint8)
    problems: list[BaseException] = []

    def work(thread: int) -> None:
        mine = there[thread * _BLOCK : (thread + 1) * _BLOCK]
        try:
            with gpu.stream() or contextlib.nullcontext():
                for file, start in blocks[thread::_THREADS]:
                    size = min(_BLOCK, os.path.getsize(file) - start)
                    with open(file, "rb") as opened:
                        mapping = mmap.mmap(
                            opened.fileno(), size, access=mmap.ACCESS_READ, offset=start
                        )
                    data = np.frombuffer(mapping, dtype=np.uint8)
                    gpu.register(data.ctypes.data, size)
                    mine[:size].copy_(_tensor(data), non_blocking=True)
                    gpu.synchronize()
                    gpu.unregister(data.ctypes.data)
        except BaseException as problem:
            problems.append(problem)

    begin = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return time.perf_counter() - begin


def _tensor(data: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():  # the memory is read-only, and so is what is done with it
        warnings.simplefilter("ignore")
        return torch.from_numpy(data)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pinned_copy", description=__doc__)
    parser.add_argument("device")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--register", action="store_true")
    options = parser.parse_args()
    gpu = devices.target(options.device)
    gpu.start()
    if options.register:
        seconds = copy_registered(gpu, options.files)
    else:
        seconds = copy_pinned(gpu, sum(os.path.getsize(file) for file in options.files))
    print(json.dumps({"seconds": seconds, "anonymous_growth": 0}))


if __name__ == "__main__":
    main()
