"""Starting and ending server processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(
    os.environ.get("STREAMER_SERVER_CACHE") or HERE.parents[2] / ".cache" / "servers"
)


class Unavailable(RuntimeError):
    """This machine can't run the server; the text says what is missing."""


_given_ports: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on; never the same twice."""
    while True:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            return port


class Server:
    """Processes and their directory. Subclasses start them in `start()`."""

    def __init__(self) -> None:
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="streamer-server-"))
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        raise NotImplementedError

    def spawn(self, command: list[str], env: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Starts a process of this server; its output goes to the file `log`. The process, and all
        that it starts, ends when the thread that calls this does, even if that is killed."""
        guard = [sys.executable, "-IS", str(HERE / "guard.py"), str(os.getpid())]
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen(
                [*guard, *command],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Waits until `ready()`; RuntimeError with the log where a process ends before that."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if ready():
                    return
            dead = [p for p in self._processes if p.poll() is not None]
            if dead or time.monotonic() > end:
                raise RuntimeError(f"{what} did not start:\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def wait_for_port(self, port: int, what: str, host: str = "127.0.0.1") -> None:
        def listening() -> bool:
            with socket.create_connection((host, port), timeout=1):
                return True

        self.wait_until(listening, what)

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Ends the processes at once, as a crash would."""
        for process in self._processes:
            process.terminate()  # the guard, which kills the others
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
