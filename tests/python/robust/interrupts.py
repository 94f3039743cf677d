"""Public calls that wait for a server, interrupted by Ctrl-C or by close() of another thread.

One process imports everything and forks one for each call.
"""

from __future__ import annotations

import faulthandler
import http.server
import os
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import runai_model_streamer as package
from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer, StreamerError

_PATIENCE = 60.0
"""Seconds after which a process counts as hanging. No request ends by itself before."""

_NAME = "m/model.safetensors"


class _Stalling(http.server.BaseHTTPRequestHandler):
    """S3 or a plain server with one object. The first request gets its beginning; no later one
    gets all that it asks for."""

    protocol_version = "HTTP/1.1"
    data = b""

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            entry = f"<Key>{_NAME}</Key><Size>{len(self.data)}</Size><ETag>1</ETag>"
            body = f"<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        first, last = 0, len(self.data) - 1
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found[1]), min(int(found[2] or last), last)
        self.send_response(206 if found else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(last + 1 - first))
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        self.end_headers()
        whole = found is not None and first == 0 and last < 1 << 19
        self.wfile.write(self.data[first : last + 1 if whole else first + 1000])
        self.wfile.flush()
        if not whole:
            time.sleep(3600)

    def log_message(self, *arguments: object) -> None:
        pass


def _serve(data: bytes) -> tuple[int, str]:
    """The process of a server, and its address."""
    _Stalling.data = data
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stalling)
    process = os.fork()
    if process == 0:
        server.serve_forever()
    server.socket.close()
    return process, "{}:{}".format(*server.server_address)


# Connections are made, and nobody answers.
_silence = socket.create_server(("127.0.0.1", 0), backlog=1024)
_silent = "{}:{}".format(*_silence.getsockname())


def _module() -> torch.nn.Module:
    module = torch.nn.Module()
    for i in range(4):
        module.register_parameter(f"t{i}", torch.nn.Parameter(torch.empty(1 << 18)))
    return module


def _take(streamer: Any, path: str, **options: Any) -> None:
    streamer.stream_files([path], **options)
    for _ in streamer.get_tensors():
        pass


def _wait(streamer: Any, path: str) -> None:
    streamer.stream_files([path], into=_module())
    streamer.wait()


def _chunks(streamer: Any, path: str) -> None:
    streamer.stream_files([FileChunks(0, path, 0, [1 << 20] * 4)])
    for _ in streamer.get_chunks():
        pass


def _part(path: str) -> None:
    with package.safe_open(path, "pt") as file:
        file.get_slice("t3")[5:]


def _tensor(path: str) -> None:
    with package.safe_open(path, "pt") as file:
        file.get_tensor("t3")


def _pull_model(directory: str, to: str) -> None:
    model = package.ObjectStorageModel(model_path=directory, dst=to)
    model.pull_files()


# By the address of an object, and that of its directory.
CALLS: dict[str, Callable[[str, str, str], object]] = {
    "load_file": lambda path, directory, to: package.load_file(path),
    "load_model": lambda path, directory, to: package.load_model(_module(), path),
    "load_checkpoint": lambda path, directory, to: package.load_checkpoint(directory),
    "list_checkpoint": lambda path, directory, to: package.list_checkpoint(directory),
    "list_files": lambda path, directory, to: package.list_files(directory),
    "list_safetensors": lambda path, directory, to: package.list_safetensors(directory),
    "pull_files": lambda path, directory, to: package.pull_files(directory, to),
    "ObjectStorageModel.pull_files": lambda path, directory, to: _pull_model(directory, to),
    "safe_open().get_tensor": lambda path, directory, to: _tensor(path),
    "safe_open().get_slice": lambda path, directory, to: _part(path),
    "get_tensors": lambda path, directory, to: _take(SafetensorsStreamer(), path),
    "get_tensors of a device": lambda path, directory, to: _take(
        SafetensorsStreamer(), path, device="meta"
    ),
    "wait": lambda path, directory, to: _wait(SafetensorsStreamer(), path),
    "get_chunks": lambda path, directory, to: _chunks(FileStreamer(), path),
}
# Lists are answered at once.
NOT_STALLED = {"list_checkpoint", "list_files", "list_safetensors"}

CLOSED: dict[str, tuple[Callable[[], Any], Callable[[Any, str], None]]] = {
    "get_tensors": (SafetensorsStreamer, _take),
    "wait": (SafetensorsStreamer, _wait),
    "get_chunks": (FileStreamer, _chunks),
}


def _interrupted(call: Callable[[], object], delay: float) -> str:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        call()
        return "it ended by itself"
    except KeyboardInterrupt:
        return ""


def _closed(streamer: Any, call: Callable[[Any], object], delay: float) -> str:
    def close() -> None:
        time.sleep(delay)
        while True:  # the call may not have begun
            streamer.close()
            time.sleep(0.05)

    threading.Thread(target=close, daemon=True).start()
    try:
        call(streamer)
        return "it ended by itself"
    except StreamerError as error:
        return "" if error.code in ("cancelled", "invalid") else f"{type(error).__name__}: {error}"


class _Child:
    def __init__(self, name: str, work: Callable[[], str]) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._until = time.monotonic() + _PATIENCE
        self._process = os.fork()
        if self._process == 0:
            said = "nothing"
            faulthandler.dump_traceback_later(_PATIENCE - 5, file=self._said)
            try:
                said = work()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            finally:
                os.write(self._said.fileno(), said.encode())
                os._exit(0)

    def problem(self) -> str:
        while not os.waitpid(self._process, os.WNOHANG)[0]:
            if time.monotonic() > self._until:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
                self._said.seek(0)
                where = self._said.read().decode(errors="replace")
                return f"{self.name}: it does not end\n{where}"
            time.sleep(0.005)
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        return f"{self.name}: {said}" if said else ""


def main(file: Path, directory: Path, seed: int) -> None:
    """Prints what is wrong with a call."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    process, stalling = _serve(file.read_bytes())
    work: list[tuple[str, Callable[[], str]]] = []

    def add(name: str, server: str, of: Callable[[float], str]) -> None:
        delay = rng.uniform(0.02, 0.4)

        def run() -> str:
            os.environ["AWS_ENDPOINT_URL"] = f"http://{server}"
            return of(delay)

        work.append((name, run))

    for server in (_silent, stalling):
        state = "silent" if server == _silent else "stalling"
        for number, (name, call) in enumerate(CALLS.items()):
            if server == stalling and name in NOT_STALLED:
                continue
            for path in (f"http://{server}/{_NAME}", f"s3://bucket/{_NAME}"):
                if path.startswith("http") and name.split("_")[0] in ("list", "pull"):
                    continue
                to = str(directory / f"{state}-{number}-{path[:2]}")
                add(
                    f"{name} of {path[:4]}, {state} server, Ctrl-C",
                    server,
                    lambda delay, call=call, path=path, to=to: _interrupted(
                        lambda: call(path, "s3://bucket/m", to), delay
                    ),
                )
        for name, (make, close) in CLOSED.items():
            path = f"http://{server}/{_NAME}"
            add(
                f"{name}, {state} server, close()",
                server,
                lambda delay, make=make, close=close, path=path: _closed(
                    make(), lambda streamer: close(streamer, path), delay
                ),
            )
    try:
        while work:
            batch = [_Child(name, run) for name, run in work[:8]]
            del work[:8]
            for child in batch:
                if problem := child.problem():
                    print(problem, flush=True)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
