"""The rows of benchmarks.gpu: what is loaded, by whom, and what must come out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import runner
from benchmarks.peers import ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable

LOADERS = ["ours", "instanttensor", "original", "safetensors", "fastsafetensors"]


@dataclasses.dataclass
class Plan:
    """A row before it is measured."""

    title: str
    files: list[str]
    runnables: list[Runnable]
    checks: Callable[[Row], list[Check]]


@dataclasses.dataclass
class Setup:
    dense: list[str]
    memory: list[str]  # the same checkpoint on a file system in memory; may be empty
    small: list[str]
    loaders: list[str]
    device: str
    standin: bool
    stack: contextlib.ExitStack  # of what has to live while rows are measured

    def job(self, peer: str, work: str, files: list[str], label: str = "", **more: Any) -> Runnable:
        device = "cpu" if self.standin and peer != "ours" else self.device
        options = {"device": device, **more.pop("options", {})}
        reference = more.pop("reference", files)
        job = Job(label or peer, peer, work, files, reference, options=options, **more)
        return job.label, lambda: runner.run(job)

    def link(self, label: str, *arguments: str) -> Runnable:
        """What the link gives; see benchmarks.pinned_copy."""
        command = [sys.executable, "-m", "benchmarks.pinned_copy", self.device, *self.dense]

        def call() -> dict[str, Any]:
            done = subprocess.run(
                [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
            return dict(json.loads(done.stdout))

        return label, call

    def pinned_copy(self) -> Runnable:
        return self.link("pinned copy")


def _memory_checks(row: Row, kept: int) -> list[Check]:
    """What a load took: pinned memory, and device memory beyond the `kept` bytes."""
    good = [sample for sample in row.samples.get("ours", []) if "error" not in sample]
    pinned = [
        int(value)
        for sample in good
        for key, value in sample["stats"].get("notes", {}).items()
        if key.endswith("pinned bytes")
    ]
    beyond = [
        sample["device_growth"] - kept for sample in good if sample["device_growth"] is not None
    ]
    return [
        Check(f"{row.title}: pinned", max(pinned) / 1e6 if pinned else None, 512, True, "MB"),
        Check(
            f"{row.title}: device memory beyond the tensors",
            max(beyond) / 1e6 if beyond else None,
            256,
            True,
            "MB",
        ),
    ]


def _kept(setup: Setup, title: str, files: list[str], state: str, *others: Runnable) -> Plan:
    runnables = [setup.job(peer, "keep", files, cache=state) for peer in setup.loaders]

    def checks(row: Row) -> list[Check]:
        return [
            Check(f"{title}: the pinned copy", row.faster("ours", "pinned copy"), 0.9),
            Check(f"{title}: InstantTensor", row.faster("ours", "instanttensor"), 1.0),
            Check(f"{title}: the original", row.faster("ours", "original"), 5.0),
            *_memory_checks(row, row.bytes),
        ]

    return Plan(title, files, [*runnables, setup.pinned_copy(), *others], checks)


def memory_kept(setup: Setup) -> Plan | None:
    if not setup.memory:
        return None
    return _kept(setup, "tmpfs, tensors kept", setup.memory, "any")


def cached_kept(setup: Setup) -> Plan:
    """With what registering the files' own pages would give."""
    registered = setup.link("registered mapping", "--register")
    return _kept(setup, "page cache, tensors kept", setup.dense, "warm", registered)


def cached_into(setup: Setup) -> Plan:
    runnables = [
        setup.job(
            peer, "into" if peer in ("ours", "instanttensor") else "copy", setup.dense
        )
        for peer in setup.loaders
    ]  # fmt: skip

    def checks(row: Row) -> list[Check]:
        ratio = row.faster("ours", "pinned copy")
        return [
            Check("page cache, into=: the pinned copy", ratio, 0.93),
            *_memory_checks(row, 0),
        ]

    runnables.append(setup.pinned_copy())
    return Plan("page cache, into= parameters", setup.dense, runnables, checks)


def cold_kept(setup: Setup) -> Plan:
    # Of so few bytes as a dry run has, too many stay in the page cache.
    state = "any" if setup.standin else "cold"
    runnables = [setup.job(peer, "keep", setup.dense, cache=state) for peer in setup.loaders]
    raw: Runnable = ("raw reader", lambda: runner.raw("direct", setup.dense, state, 16))

    def checks(row: Row) -> list[Check]:
        return [Check("cold: the raw O_DIRECT reader", row.faster("ours", "raw reader"), 0.95)]

    return Plan("cold, tensors kept", setup.dense, [*runnables, raw], checks)


class RangeServer(http.server.SimpleHTTPRequestHandler):
    """Files with byte ranges; plain Python, the same for both sides of the comparison."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not path.is_file() or "-" not in wanted:
            self.send_error(404 if not path.is_file() else 416)
            return
        size = path.stat().st_size
        first, _, last = wanted.partition("-")
        begin, end = int(first), min(int(last or size - 1), size - 1)
        self.send_response(206)
        self.send_header("Content-Length", str(end - begin + 1))
        self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.end_headers()
        with path.open("rb") as file:
            offset = begin
            while offset <= end:
                sent = os.sendfile(
                    self.connection.fileno(), file.fileno(), offset, end - offset + 1
                )
                if sent == 0:
                    return
                offset += sent


def _reads_http(url: str) -> bool:
    """Whether this build has object storage."""
    from runai_model_streamer import list_safetensors
    from runai_model_streamer._errors import StreamerError, StreamerUnsupportedError

    try:
        list_safetensors(url)
    except StreamerUnsupportedError:
        return False
    except StreamerError:
        pass  # this server lists nothing
    return True


def http_kept(setup: Setup) -> Plan | None:
    directory = Path(setup.dense[0]).parent
    handler = functools.partial(RangeServer, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    setup.stack.callback(server.server_close)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    setup.stack.callback(server.shutdown)
    base = f"http://127.0.0.1:{server.server_port}/"
    if not _reads_http(base):
        return None
    urls = [base + Path(file).name for file in setup.dense]
    runnables = [
        setup.job("ours", "keep", urls, reference=setup.dense),
        setup.job(
            "ours", "keep", urls, "ours, to the host", reference=setup.dense,
            options={"device": "cpu"},
        ),
    ]  # fmt: skip

    def checks(row: Row) -> list[Check]:
        return [Check("http: the host path", row.faster("ours", "ours, to the host"), 1.0)]

    return Plan("http from loopback, tensors kept", setup.dense, runnables, checks)


def small_kept(setup: Setup) -> Plan:
    runnables = [setup.job(peer, "keep", setup.small) for peer in setup.loaders]

    def checks(row: Row) -> list[Check]:
        seconds = runner.median(row.samples.get("ours", []), "seconds")
        tensors = runner.median(row.samples.get("ours", []), "tensors")
        each = seconds / tensors * 1e6 if seconds and tensors else None
        return [Check("small tensors: time for each", each, 12.0, at_most=True, unit="us")]

    return Plan("60,000 small tensors, page cache", setup.small, runnables, checks)


def dropped(setup: Setup) -> Plan:
    """The consumer keeps nothing."""
    runnables = [setup.job(peer, "copy", setup.dense) for peer in setup.loaders]
    title = "page cache, copy_ into parameters"
    return Plan(title, setup.dense, runnables, lambda row: _memory_checks(row, 0))


def group_of_one(setup: Setup) -> Plan:
    """The cost of distributed streaming in a group of one rank."""
    options: dict[str, Any] = {"backend": "nccl", "distributed": True, "alone": True}
    if setup.standin:
        options |= {"backend": "gloo", "device": "cpu"}
    runnables = [
        setup.job("ours", "keep", setup.dense),
        setup.job("ours", "keep", setup.dense, "ours, a group of one", options=options),
    ]
    return Plan("NCCL, world size 1", setup.dense, runnables, lambda row: [])


# None: what the row needs is not there.
ROWS: dict[str, Callable[[Setup], Plan | None]] = {
    "memory_kept": memory_kept,
    "cached_kept": cached_kept,
    "cached_into": cached_into,
    "cold_kept": cold_kept,
    "http_kept": http_kept,
    "small_kept": small_kept,
    "dropped": dropped,
    "group_of_one": group_of_one,
}
