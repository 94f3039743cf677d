"""Starting and ending server processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import random
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


# Below the ports that systems give to outgoing connections, which would take one before its server
# does.
_PORTS = range(15_000, 32_000)
_PORT_LOCKS = pathlib.Path(tempfile.gettempdir()) / f"streamer-ports-{os.getuid()}"
_locked_ports: dict[int, int] = {}
_random = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on. No other caller of this function gets it before this process
    ends, also in other processes of this user.
    """
    _PORT_LOCKS.mkdir(mode=0o700, exist_ok=True)
    while True:
        port = _random.choice(_PORTS)
        if port in _locked_ports:
            continue
        lock = os.open(_PORT_LOCKS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError:
            os.close(lock)
            continue
        _locked_ports[port] = lock
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

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = 240) -> None:
        """Waits until `ready()`; RuntimeError with the log if a process ends before that."""
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
