"""One load in one process. Started by `benchmarks.runner` with the interpreter of the loader.

    python -m benchmarks.worker JOB      (JOB: JSON, see `Job` in runner.py)

Says READY when everything but the load is done, loads on GO, says DONE with what it measured, then
compares the result with the files and says CHECKED. The comparison and the imports are not timed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import devices
from benchmarks.checkpoints import Reference

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
_SMALL = 64 << 10


def touch(tensor: torch.Tensor) -> int:
    """Reads one byte of every page, and returns their sum."""
    return int(tensor.detach().reshape(-1).view(torch.uint8)[::4096].sum())


def touched_sum(reference: Reference) -> int:
    return sum(int(data[::4096].sum(dtype=np.int64)) for data in reference.values())


def differs(tensor: torch.Tensor, expected: np.ndarray) -> bool:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.is_cuda:  # compared there: what a copy back would mend or spoil is not looked at
        return not torch.equal(data, torch.from_numpy(expected.copy()).to(data.device))
    return not np.array_equal(data.numpy(), expected)


def compare(tensors: dict[str, torch.Tensor], reference: Reference, names: set[str]) -> str:
    """An empty string, or what is wrong with `tensors`."""
    if set(tensors) != names:
        return f"{len(tensors)} tensors instead of {len(names)}"
    wrong = [
        name
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != reference.specs[name].shape
        or tensor.dtype != _DTYPES[reference.specs[name].dtype]
        or differs(tensor, reference[name])
    ]
    return f"{len(wrong)} tensors differ, the first is {wrong[0]}" if wrong else ""


class Work:
    """prepare(), then run() which is timed, then check() which says what is wrong."""

    def __init__(self, adapter: Any, job: dict[str, Any]) -> None:
        self.adapter = adapter
        self.files: list[str] = job["files"]
        self.options: dict[str, Any] = job["options"]
        self.reference = Reference(job["reference"])
        self.target = devices.target(self.options.get("device", "cpu"))
        self.first: float | None = None  # when the first tensor came
        self.count = 0

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        iterator = iter(self.adapter.iterate(self.files, self.options))
        try:
            item = next(iterator)
        except StopIteration:
            return
        self.first = time.perf_counter()
        yield item
        del item  # or the first tensor would be kept to the end
        yield from iterator

    def prepare(self) -> None: ...

    def run(self) -> None:
        raise NotImplementedError

    def check(self) -> str:
        raise NotImplementedError

    def make_params(self) -> dict[str, torch.Tensor]:
        return {
            # Written once, so that its pages exist as those of a model's parameters do.
            name: self.target.zeros(spec.shape, _DTYPES[spec.dtype])
            for name, spec in self.reference.specs.items()
        }


class Iterate(Work):
    """Iterates and reads one byte of every page; tensors are dropped at once."""

    total = 0

    def run(self) -> None:
        total = 0
        for _, tensor in self.tensors():
            total += touch(tensor)
            self.count += 1
        self.total = total

    def check(self) -> str:
        if self.count != len(self.reference):
            return f"{self.count} tensors instead of {len(self.reference)}"
        expected = touched_sum(self.reference)
        return "" if self.total == expected else f"bytes add up to {self.total}, not {expected}"


class Compare(Work):
    """Iterates and compares every byte; for checks, not for times."""

    problem = ""

    def run(self) -> None:
        seen = set()
        for name, tensor in self.tensors():
            self.count += 1
            seen.add(name)
            self.problem = self.problem or compare({name: tensor}, self.reference, {name})
        if seen != set(self.reference):
            self.problem = self.problem or f"{len(seen)} names instead of {len(self.reference)}"

    def check(self) -> str:
        return self.problem


class Copy(Work):
    """Copies every tensor into a parameter that exists."""

    params: dict[str, torch.Tensor]

    def prepare(self) -> None:
        self.params = self.make_params()

    def run(self) -> None:
        params = self.params
        for name, tensor in self.tensors():
            params[name].copy_(tensor)
            self.count += 1
        self.target.synchronize()

    def check(self) -> str:
        return compare(self.params, self.reference, set(self.reference))


class Into(Copy):
    """Has the loader fill parameters that exist."""

    def run(self) -> None:
        self.adapter.into(self.files, self.params, self.options)
        self.count = len(self.params)
        self.target.synchronize()


class Keep(Work):
    """Keeps every tensor, as a state dict."""

    limit = sys.maxsize
    kept: dict[str, torch.Tensor]

    def run(self) -> None:
        kept = {}
        limit = self.limit
        for name, tensor in self.tensors():
            self.count += 1
            if tensor.nbytes < limit:
                kept[name] = tensor
        del tensor
        self.kept = kept
        self.target.synchronize()

    def check(self) -> str:
        names = {n for n, data in self.reference.items() if data.nbytes < self.limit}
        return compare(self.kept, self.reference, names)


class KeepSmall(Keep):
    """Keeps the tensors below 64 KiB, drops the others."""

    limit = _SMALL


class LoadFile(Keep):
    """Loads every tensor by the loader's load_file(); by the loop if it has none."""

    def run(self) -> None:
        load = getattr(self.adapter, "load_file", None)
        if load is None:
            super().run()
            return
        self.kept = {name: tensor for path in self.files for name, tensor in load(path).items()}
        self.count = len(self.kept)
        for tensor in self.kept.values():
            touch(tensor)  # what is mapped counts when it is used


WORKS = {
    "load_file": LoadFile,
    "iterate": Iterate,
    "compare": Compare,
    "copy": Copy,
    "into": Into,
    "keep": Keep,
    "keep_small": KeepSmall,
}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def anonymous_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        resident, shared = (int(n) for n in file.read().split()[1:3])
    return (resident - shared) * resource.getpagesize()


def join_group(ranks: int, backend: str) -> None:
    """The default process group: as the environment says, or one of this process alone."""
    import torch.distributed as dist

    if ranks > 1:
        dist.init_process_group(backend)
    else:
        handle, path = tempfile.mkstemp(prefix="streamer-bench-")
        os.close(handle)
        store = dist.FileStore(path, 1)  # removes the file
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def main() -> None:
    job = json.loads(sys.argv[1])
    # Only this program's own lines go to the runner.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    backend = job["options"].get("backend", "gloo" if job["ranks"] > 1 else "")
    if backend:
        join_group(job["ranks"], backend)
    adapter = importlib.import_module(job["adapter"])
    work: Work = WORKS[job["work"]](adapter, job)
    work.prepare()
    gc.collect()
    work.target.start()
    print("READY", file=channel)
    if sys.stdin.readline().strip() != "GO":
        return
    anonymous = anonymous_bytes()
    cpu = cpu_seconds()
    start = time.perf_counter()
    work.run()
    end = time.perf_counter()
    measured = {
        "seconds": end - start,
        "cpu_seconds": cpu_seconds() - cpu,
        "first_seconds": work.first - start if work.first else None,
        "tensors": work.count,
        "end_anonymous": anonymous_bytes() - anonymous,
        "device_growth": work.target.growth(),
        "version": adapter.version(),
        "stats": adapter.stats() if hasattr(adapter, "stats") else {},
    }
    print("DONE " + json.dumps(measured, default=str), file=channel)
    if sys.stdin.readline().strip() == "CHECK":
        print("CHECKED " + json.dumps(work.check()), file=channel)
    channel.flush()
    os._exit(0)  # freeing gigabytes is not a part of the measurement


if __name__ == "__main__":
    main()
