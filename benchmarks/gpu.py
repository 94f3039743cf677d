"""Loads to one GPU: `python -m benchmarks.gpu`, or `make bench-gpu`.

Works like benchmarks.local, with the pinned host-to-device copy rate of the same run as the limit.
Where packages can't be installed, --wheels names a folder with the peers' wheels.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, report, runner
from benchmarks.peers import PEERS, ROOT, STATE
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable

LOADERS = ["ours", "instanttensor", "original", "safetensors", "fastsafetensors"]

# Copies as many bytes as the checkpoint has, from two pinned buffers in turn.
_PINNED_COPY = """
import json, sys, time, torch
total, device, block = int(sys.argv[1]), sys.argv[2], 64 << 20
host = [torch.empty(block, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
there = torch.empty(2 * block, dtype=torch.uint8, device=device)
def run(bytes):
    for index in range(bytes // block):
        part = index % 2
        there[part * block:(part + 1) * block].copy_(host[part], non_blocking=True)
    rest = bytes % block
    there[:rest].copy_(host[0][:rest], non_blocking=True)
    torch.cuda.synchronize()
run(1 << 30)
start = time.perf_counter()
run(total)
print(json.dumps({"seconds": time.perf_counter() - start, "anonymous_growth": 0}))
"""


@dataclasses.dataclass
class Setup:
    dense: list[str]
    memory: list[str]  # the same checkpoint on a file system in memory
    small: list[str]
    loaders: list[str]
    rounds: int
    device: str

    def job(self, peer: str, work: str, files: list[str], label: str = "", **more: Any) -> Runnable:
        options = {"device": self.device, **more.pop("options", {})}
        reference = more.pop("reference", files)
        job = Job(label or peer, peer, work, files, reference, options=options, **more)
        return job.label, lambda: runner.run(job)

    def pinned_copy(self) -> Runnable:
        total = str(checkpoints.total_bytes(self.dense))
        command = [sys.executable, "-c", _PINNED_COPY, total, self.device]

        def call() -> dict[str, Any]:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
            return dict(json.loads(done.stdout))

        return "pinned copy", call

    def run(self, key: str, title: str, files: list[str], runnables: list[Runnable]) -> Row:
        print(f"\n{key}: {title}", flush=True)
        samples = runner.interleave(runnables, self.rounds, lambda text: print(text, flush=True))
        return Row(key, title, checkpoints.total_bytes(files), samples)


def _kept(setup: Setup, key: str, title: str, files: list[str]) -> Row:
    state = "any" if files is setup.memory else "warm"
    runnables = [setup.job(peer, "keep", files, cache=state) for peer in setup.loaders]
    row = setup.run(key, title, files, [*runnables, setup.pinned_copy()])
    row.checks += [
        Check(f"{title}: the pinned copy", row.faster("ours", "pinned copy"), 0.9),
        Check(f"{title}: InstantTensor", row.faster("ours", "instanttensor"), 1.0),
        Check(f"{title}: the original", row.faster("ours", "original"), 5.0),
    ]
    return row


def memory_kept(setup: Setup) -> Row:
    return _kept(setup, "memory_kept", "tmpfs, tensors kept", setup.memory)


def cached_kept(setup: Setup) -> Row:
    return _kept(setup, "cached_kept", "page cache, tensors kept", setup.dense)


def cached_into(setup: Setup) -> Row:
    runnables = [
        setup.job("ours", "into", setup.dense),
        *(
            setup.job(peer, "into" if peer == "instanttensor" else "copy", setup.dense)
            for peer in setup.loaders
            if peer != "ours"
        ),
        setup.pinned_copy(),
    ]
    row = setup.run("cached_into", "page cache, into= parameters", setup.dense, runnables)
    ratio = row.faster("ours", "pinned copy")
    row.checks += [Check("page cache, into=: the pinned copy", ratio, 0.93)]
    return row


def cold_kept(setup: Setup) -> Row:
    runnables = [setup.job(peer, "keep", setup.dense, cache="cold") for peer in setup.loaders]
    raw: Runnable = ("raw reader", lambda: runner.raw("direct", setup.dense, "cold", 16))
    row = setup.run("cold_kept", "cold, tensors kept", setup.dense, [*runnables, raw])
    ratio = row.faster("ours", "raw reader")
    row.checks += [Check("cold: the raw O_DIRECT reader", ratio, 0.95)]
    return row


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


def http_kept(setup: Setup) -> Row:
    folder = Path(setup.dense[0]).parent
    handler = functools.partial(RangeServer, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}/"
        urls = [base + Path(file).name for file in setup.dense]
        runnables = [
            setup.job("ours", "keep", urls, reference=setup.dense),
            setup.job(
                "ours", "keep", urls, "ours, to the host", reference=setup.dense,
                options={"device": "cpu"},
            ),
        ]  # fmt: skip
        row = setup.run("http_kept", "http from loopback, tensors kept", setup.dense, runnables)
    finally:
        server.shutdown()
    ratio = row.faster("ours", "ours, to the host")
    row.checks += [Check("http: the host path", ratio, 1.0)]
    return row


def small_kept(setup: Setup) -> Row:
    runnables = [setup.job(peer, "keep", setup.small) for peer in setup.loaders]
    row = setup.run("small_kept", "60,000 small tensors, page cache", setup.small, runnables)
    seconds = runner.median(row.samples.get("ours", []), "seconds")
    tensors = runner.median(row.samples.get("ours", []), "tensors")
    each = seconds / tensors * 1e6 if seconds and tensors else None
    row.checks += [Check("small tensors: time for each", each, 12.0, at_most=True, unit="us")]
    return row


def dropped(setup: Setup) -> Row:
    """Memory, of the host's that is pinned and of the device's, where the consumer keeps nothing
    and the speed is the link's."""
    runnables = [setup.job(peer, "copy", setup.dense) for peer in setup.loaders]
    row = setup.run("dropped", "page cache, copy_ into parameters", setup.dense, runnables)
    good = [sample for sample in row.samples.get("ours", []) if "error" not in sample]
    pinned = [
        int(value)
        for sample in good
        for key, value in sample["stats"].get("notes", {}).items()
        if key.endswith("pinned bytes")
    ]
    device = [sample["device_growth"] for sample in good if sample.get("device_growth") is not None]
    row.checks += [
        Check("pinned memory", max(pinned) / 1e6 if pinned else None, 512, True, "MB"),
        Check("device memory beyond", max(device) / 1e6 if device else None, 256, True, "MB"),
    ]
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {
    "memory_kept": memory_kept,
    "cached_kept": cached_kept,
    "cached_into": cached_into,
    "cold_kept": cold_kept,
    "http_kept": http_kept,
    "small_kept": small_kept,
    "dropped": dropped,
}


def use_wheels(folder: Path) -> None:
    """Has peers run with this interpreter, and packages from the wheels in `folder`."""
    for name, peer in list(PEERS.items()):
        if not peer.requirements:
            continue
        project = peer.requirements[0].partition("==")[0].partition("[")[0].replace("-", "_")
        wheels = sorted(folder.glob(f"{project}-*.whl"))
        if not wheels:
            continue
        place = STATE / "wheels" / name
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
        path = os.pathsep.join([str(ROOT), str(place)])
        PEERS[name] = dataclasses.replace(peer, requirements=(), env={"PYTHONPATH": path})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--loaders", default=",".join(LOADERS), help="default: all, by commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept (a real disk)")
    parser.add_argument("--memory", default="/dev/shm", help="a file system in memory")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of the peers")
    options = parser.parse_args(arguments)

    import torch

    if not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; benchmarks.overlap needs none")
    wanted = [key for key in ROWS if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    loaders = [name for name in options.loaders.split(",") if name]
    unknown = [name for name in loaders if name not in PEERS]
    if unknown or not wanted:
        parser.error(f"unknown loader: {unknown[0]}" if unknown else "no such row")
    if options.wheels:
        use_wheels(options.wheels)
        loaders = [name for name in loaders if not PEERS[name].requirements]
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    for name in loaders:
        PEERS[name].python()
    folder = runner.data_folder(options.data)
    print("Making checkpoints (once)", flush=True)
    dense = checkpoints.dense(folder / f"dense-{options.gigabytes:g}", options.gigabytes)
    memory = Path(options.memory) / "streamer-bench"
    setup = Setup(
        dense,
        checkpoints.dense(memory, options.gigabytes) if "memory_kept" in wanted else [],
        checkpoints.small(folder / "small"),
        loaders,
        options.rounds,
        options.device,
    )
    start = time.monotonic()
    try:
        rows = [ROWS[key](setup) for key in wanted]
    finally:
        for file in setup.memory:
            Path(file).unlink()
        if setup.memory:
            (memory / "recipe.txt").unlink()
            memory.rmdir()
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.row is None and loaders == LOADERS:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / "gpu.json")
        report.save("gpu", "One GPU", rows, options.rounds, samples)
        print("Written: benchmarks/results/gpu.json, gpu.png, docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
