"""Loads in which one call of the system fails: see failing.c, which this process has preloaded.

One process imports everything and forks one for each load. That says how many calls there were, or
what was wrong with the load.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer, StreamerError, load_file
from runai_model_streamer._device import cuda
from tests.support.cuda_standin import Standin, StandinMemory

PATIENCE = 60.0
"""Seconds after which a load counts as hanging."""

_shim = ctypes.CDLL(None)
_FILE = ["open", "fstat", "pread", "preadv", "preadv2", "mmap", "mremap", "madvise"]
_DETACH = ["vmsplice", "tee", "pipe2"]
_SOCKET = ["socket", "connect", "recv", "send", "read", "write"]
_THREADS = ["pthread_create", "malloc"]
# As the system would say it.
_ERRORS = {
    "open": [errno.EMFILE, errno.EACCES],
    "pipe2": [errno.EMFILE],
    "socket": [errno.EMFILE],
    "connect": [errno.ECONNREFUSED],
    "recv": [errno.ECONNRESET],
    "send": [errno.EPIPE],
    "mmap": [errno.ENOMEM],
    "mremap": [errno.ENOMEM],
    "madvise": [errno.ENOMEM, errno.EFAULT],
    "vmsplice": [errno.ENOMEM],
    "malloc": [errno.ENOMEM],
    "pthread_create": [errno.EAGAIN],
}
_DRIVER = [
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDevicePrimaryCtxGetState",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxPushCurrent_v2",
    "cuStreamCreate",
    "cuStreamIsCapturing",
    "cuStreamWaitEvent",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuMemHostRegister_v2",
    "cuMemcpyHtoDAsync_v2",
]
_DRIVER_ERROR = 2  # CUDA_ERROR_OUT_OF_MEMORY
_DRIVER_FATAL = 700  # CUDA_ERROR_ILLEGAL_ADDRESS


@dataclasses.dataclass(frozen=True)
class Kind:
    """Loads of one kind, and what fails in them."""

    path: str
    functions: list[str]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    keep: bool = True
    """Whether the tensors are kept: views are detached then."""
    device: str = "cpu"
    ranks: int = 1


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    function: str
    index: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}: call {self.index} of {self.function} fails with {self.number}"


def kinds(job: dict[str, str]) -> dict[str, Kind]:
    """`job` has the paths of the file, by kind of storage, and of the stand-in driver."""
    local = _FILE + _THREADS
    found = {
        strategy: Kind(job["file"], local + _DETACH, {"RUNAI_STREAMER_FS_STRATEGY": strategy})
        for strategy in ("auto", "mapped", "buffered", "direct")
    }
    found["loop"] = dataclasses.replace(found["mapped"], keep=False)
    for scheme in ("http", "https"):
        if scheme in job:
            found[scheme] = Kind(
                job[scheme],
                _SOCKET + ["open", "mmap", "fstat", *_THREADS],
                {"RUNAI_STREAMER_MAX_ATTEMPTS": "3", "SSL_CERT_FILE": job.get("ca", "")},
            )
    if "standin" in job:
        found["device"] = Kind(
            job["file"],
            [*_DRIVER, "mmap", "madvise"],  # not threads: the stand-in has some, too
            {"RUNAI_STREAMER_CUDA_LIBRARY": job["standin"]},
            device="cuda:0",
        )
    found["ranks"] = Kind(job["file"], ["open", "pread", "preadv2", "mmap"], ranks=2)
    return found


def _prepare(kind: Kind, job: dict[str, str]) -> Standin | None:
    os.environ.update(kind.settings)
    if kind.device == "cpu":
        return None
    standin = Standin(Path(job["standin"]))
    standin.reset()
    StandinMemory.standin = standin
    StandinMemory.used = []
    cuda.memory_factory = StandinMemory
    return standin


def _arm(standin: Standin | None, function: str, index: int, number: int) -> None:
    if function.startswith("cu"):
        assert standin is not None
        standin.fail(function, number, after=index, sticky=number == _DRIVER_FATAL)
    else:
        _shim.failing_arm(function.encode(), index, number)


def _load(kind: Kind) -> dict[str, torch.Tensor]:
    loaded = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([kind.path], device=kind.device, is_distributed=kind.ranks > 1)
        for name, tensor in streamer.get_tensors():
            loaded[name] = tensor if kind.keep else tensor.clone()
    return loaded


def _same(loaded: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return loaded.keys() == right.keys() and all(
        torch.equal(loaded[name], tensor) for name, tensor in right.items()
    )


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(name for name in found if "/proc/" not in name)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _settles(count: Callable[[], int], most: int) -> bool:
    """Threads that were told to end need a moment."""
    until = time.monotonic() + PATIENCE / 4
    while count() > most:
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _run(kind: Kind, fault: Fault, right: dict[str, torch.Tensor], job: dict[str, str]) -> str:
    """What was wrong, or the number of calls."""
    standin = _prepare(kind, job)
    descriptors, threads = _descriptors(), _threads()
    _arm(standin, fault.function, fault.index, fault.number)
    ended = "right"
    try:
        if not _same(_load(kind), right):
            return "wrong bytes"
    except StreamerError as error:
        ended = type(error).__name__
    except MemoryError:
        ended = "MemoryError"
    except BaseException as error:
        return f"an error without a type: {type(error).__name__}: {error}"
    calls = _shim.failing_calls()
    if fault.function.startswith("cu"):
        calls = fault.index + 1 if ended != "right" else 0
        if fault.number == _DRIVER_FATAL:
            return str(calls)  # nothing is to be had of such a context any more
    _shim.failing_arm(b"", -1, 0)
    gc.collect()
    if standin is None:
        if not _settles(_threads, threads):
            return f"{_threads() - threads} threads more ({ended})"
        if not _settles(lambda: len(_descriptors()), len(descriptors)):
            more = [name for name in _descriptors() if name not in descriptors]
            return f"descriptors of {more} more ({ended})"
    else:
        if standin.counts().violations:
            return standin.violation()
        standin.reset()
    if kind.ranks == 1:
        try:
            if not _same(_load(kind), right):
                return "wrong bytes in the load after it"
        except BaseException as error:
            return f"the load after it ({ended}): {type(error).__name__}: {error}"
    return str(calls)


def _rank(kind: Kind, fault: Fault, right: dict[str, torch.Tensor], store: str, rank: int) -> str:
    """Rank 1 has the fault."""
    os.environ["RUNAI_STREAMER_DIST"] = "1"
    os.environ["RUNAI_STREAMER_DIST_TIMEOUT"] = str(int(PATIENCE / 3))
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    if rank == 1:
        _shim.failing_arm(fault.function.encode(), fault.index, fault.number)
    said = "0"
    try:
        if not _same(_load(kind), right):
            said = "wrong bytes"
    except (StreamerError, MemoryError):
        pass
    except BaseException as error:
        said = f"an error without a type: {type(error).__name__}: {error}"
    if rank == 1 and said == "0":
        said = str(_shim.failing_calls())
    _shim.failing_arm(b"", -1, 0)
    return said


class _Child:
    """A process that says what `work` returns."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._until = time.monotonic() + PATIENCE
        self._process = os.fork()
        if self._process == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(self._said.fileno(), 2)
            said = "nothing"
            try:
                said = work()
            finally:
                os.write(self._said.fileno(), f"\n{said}".encode())
                os._exit(0)

    def said(self) -> str:
        while True:
            process, status = os.waitpid(self._process, os.WNOHANG)
            if process:
                break
            if time.monotonic() > self._until:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
                return "it hangs"
            time.sleep(0.002)
        self._said.seek(0)
        text = self._said.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        return text.rpartition("\n")[2] if code == 0 else f"exit {code}: {text[-300:]}"


class Faults:
    def __init__(self, job: dict[str, str]) -> None:
        self._job = job
        self._right = load_file(job["file"])
        self.kinds = kinds(job)
        self.tried = 0

    def calls(self, fault: Fault) -> int:
        """How many calls of the function the load with `fault` had. Prints what was wrong."""
        self.tried += 1
        kind = self.kinds[fault.kind]
        if kind.ranks == 1:
            said = [_Child(lambda: _run(kind, fault, self._right, self._job)).said()]
        else:
            with tempfile.TemporaryDirectory() as directory:
                store = f"{directory}/store"
                ranks = [
                    _Child(lambda rank=rank: _rank(kind, fault, self._right, store, rank))
                    for rank in range(2)
                ]
                said = [rank.said() for rank in ranks]
        for text in said:
            if not text.isdecimal():
                print(f"{fault}: {text}", flush=True)
                return 0
        return max(map(int, said))

    def numbers(self, function: str) -> list[int]:
        if function.startswith("cu"):
            return [_DRIVER_ERROR, _DRIVER_FATAL]
        return _ERRORS.get(function, [errno.EIO])

    def each(self, only: str) -> None:
        """Fails every call of every function in every kind of load, or in those of kind `only`."""
        for name, kind in self.kinds.items():
            if only not in ("", name):
                continue
            for function in kind.functions:
                for number in self.numbers(function):
                    self._each_call(Fault(name, function, 0, number))

    def _each_call(self, fault: Fault) -> None:
        misses = 0
        while misses < 3:  # threads make different numbers of calls each time
            calls = self.calls(fault)
            misses = 0 if calls > fault.index else misses + 1
            fault = dataclasses.replace(fault, index=fault.index + 1)

    def some(self, rng: random.Random, count: int) -> None:
        """As many as `count`, of kinds, functions and calls that `rng` chooses."""
        names = [name for name, kind in self.kinds.items() if kind.ranks == 1]
        most: dict[tuple[str, str], int] = {}
        for _ in range(count):
            name = rng.choice(names)
            function = rng.choice(self.kinds[name].functions)
            number = rng.choice(self.numbers(function))
            # Without a fault that comes, a load tells how many calls it has.
            index = rng.randrange(most.get((name, function), 8) or 1)
            calls = self.calls(Fault(name, function, index, number))
            most[name, function] = max(calls, index + 1)


def main(job: dict[str, Any], seed: int, count: int, only: str = "") -> None:
    torch.set_num_threads(1)
    faults = Faults(job)
    if count:
        faults.some(random.Random(seed), count)
    else:
        faults.each(only)
        print(f"{faults.tried} loads", file=sys.stderr)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
