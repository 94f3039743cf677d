"""Processes that end while a call of the package is in progress in another thread, or in their own.

One process imports everything and forks the others, which end as the interpreter ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from runai_model_streamer import SafetensorsStreamer, _native, load_file

_PATIENCE = 60.0
"""Seconds after which a process counts as hanging."""

Begun = Callable[[], None]


# Connections are made, and nobody answers.
_server = socket.create_server(("127.0.0.1", 0), backlog=1024)
_silent: tuple[str, int] = _server.getsockname()


def _receive(begun: Begun) -> None:
    connection = socket.create_connection(_silent)
    begun()
    connection.recv(1)


def _sleep(begun: Begun) -> None:
    while True:
        begun()
        time.sleep(0.001)


def _compute(begun: Begun) -> None:
    while True:
        begun()


def _ask(work: Callable[[Begun], None]) -> Callable[[Begun, Path], None]:
    def call(begun: Begun, file: Path) -> None:
        stream = _native.Stream({}, lambda kind, container, refresh: work(begun))
        stream.opened(stream.open_begin(["s3://bucket/key"], 8))

    return call


def _list(begun: Begun, file: Path) -> None:
    _native.list_objects("s3://bucket/", True, lambda kind, container, refresh: _receive(begun))


def _open(begun: Begun, file: Path) -> None:
    begun()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file("http://{}:{}/model.safetensors".format(*_silent))


def _next(begun: Begun, file: Path) -> None:
    stream = _native.Stream({})
    begun()
    while True:
        stream.next(-1)


def _iterate(begun: Begun, file: Path) -> None:
    while True:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(file))
            for _ in streamer.get_tensors():
                begun()


def _load(begun: Begun, file: Path) -> None:
    while True:
        load_file(str(file))
        begun()


CALLS = {
    "asks and receives": _ask(_receive),
    "asks and sleeps": _ask(_sleep),
    "asks and computes": _ask(_compute),
    "lists": _list,
    "opens": _open,
    "takes": _next,
    "iterates": _iterate,
    "loads": _load,
}


def _exit_of_c() -> None:
    ctypes.CDLL(None).exit(7)


def _fail() -> None:
    raise RuntimeError("the host fails")


# What ends a process, and the exit codes that are right.
EXITS: dict[str, tuple[Callable[[], None], set[int]]] = {
    "the end of the program": (lambda: None, {0}),
    "sys.exit": (lambda: sys.exit(3), {3}),
    "an error": (_fail, {1}),
    "exit() of C": (_exit_of_c, {7}),
    "abort()": (os.abort, {-signal.SIGABRT}),
}
INTERRUPTED = {1, 130, -signal.SIGINT}


def _torch_alone(begun: Begun, file: Path) -> None:
    while True:
        torch.full((1 << 18,), 1.0)
        begun()


@functools.cache
def _torch_ends_badly() -> bool:
    """Whether exit() of C crashes a process of which another thread uses nothing but torch: so does
    torch 2.3, each time."""
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        begun = threading.Event()
        threading.Thread(target=_torch_alone, args=(begun.set, Path()), daemon=True).start()
        begun.wait(_PATIENCE)
        _exit_of_c()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGSEGV


def _in_thread(call: str, end: str, delay: float, file: Path) -> None:
    """Another thread is in the call when the program ends."""
    begun = threading.Event()

    def work() -> None:
        try:
            CALLS[call](begun.set, file)
        finally:
            if not begun.is_set():
                traceback.print_exc()
                os._exit(99)

    threading.Thread(target=work, daemon=True).start()
    if not begun.wait(_PATIENCE):
        os._exit(99)
    time.sleep(delay)
    EXITS[end][0]()


def _interrupted(call: str, delay: float, file: Path) -> None:
    """The thread of the program is in the call, and is interrupted."""
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait()
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    CALLS[call](begun.set, file)


class _Case:
    def __init__(self, name: str, right: set[int], run: Callable[[], None]) -> None:
        self.name = name
        self._right = right
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._until = time.monotonic() + _PATIENCE
        self.process = os.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(self._output.fileno(), 1)
            os.dup2(self._output.fileno(), 2)
            run()
            sys.exit(0)

    def problem(self) -> str | None:
        """Waits for the end: what was wrong with it."""
        while True:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                break
            if time.monotonic() > self._until:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return f"{self.name}: it hangs"
            time.sleep(0.005)
        self._output.seek(0)
        said = self._output.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        if code in self._right and "Fatal" not in said and "terminate called" not in said:
            return None
        return f"{self.name}: exit {code}: {said[-500:]}"


def _cases(rng: random.Random, file: Path) -> Iterator[Callable[[], _Case]]:
    for call in CALLS:
        for end, (_, right) in EXITS.items():
            delay = rng.uniform(0, 0.05)
            if end == "exit() of C" and call in ("iterates", "loads") and _torch_ends_badly():
                right = right | {-signal.SIGSEGV}
            yield lambda call=call, end=end, right=right, delay=delay: _Case(
                f"{call}, {end}", right, lambda: _in_thread(call, end, delay, file)
            )
        delay = rng.uniform(0, 0.2)
        yield lambda call=call, delay=delay: _Case(
            f"{call}, Ctrl-C", INTERRUPTED, lambda: _interrupted(call, delay, file)
        )


def main(file: Path, seed: int, count: int) -> None:
    """Runs `count` cases that the seed chooses, some at once; 0: each one. Prints the problems."""
    rng = random.Random(seed)
    cases = list(_cases(rng, file))
    rng.shuffle(cases)
    chosen = cases[:count] if count else cases
    torch.set_num_threads(1)
    while chosen:
        batch = [begin() for begin in chosen[:8]]
        del chosen[:8]
        for case in batch:
            if problem := case.problem():
                print(problem, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
