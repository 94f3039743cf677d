"""Loads to one GPU: `python -m benchmarks.gpu`, or `make bench-gpu`.

Works like benchmarks.local, with the pinned host-to-device copy rate of the same run as the limit.
Where packages can't be installed, --wheels names a folder with the peers' wheels. --standin runs
through every row without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, report, runner
from benchmarks.peers import PEERS, ROOT, STATE
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable

LOADERS = ["ours", "instanttensor", "original", "safetensors", "fastsafetensors"]


@dataclasses.dataclass
class Setup:
    dense: list[str]
    memory: list[str]  # the same checkpoint on a file system in memory
    small: list[str]
    loaders: list[str]
    rounds: int
    device: str
    standin: bool

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

    def run(self, key: str, title: str, files: list[str], runnables: list[Runnable]) -> Row:
        print(f"\n{key}: {title}", flush=True)
        samples = runner.interleave(runnables, self.rounds, lambda text: print(text, flush=True))
        return Row(key, title, checkpoints.total_bytes(files), samples)


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


def _kept(
    setup: Setup, key: str, title: str, files: list[str], others: Sequence[Runnable] = ()
) -> Row:
    state = "any" if files is setup.memory else "warm"
    runnables = [setup.job(peer, "keep", files, cache=state) for peer in setup.loaders]
    row = setup.run(key, title, files, [*runnables, setup.pinned_copy(), *others])
    row.checks += [
        Check(f"{title}: the pinned copy", row.faster("ours", "pinned copy"), 0.9),
        Check(f"{title}: InstantTensor", row.faster("ours", "instanttensor"), 1.0),
        Check(f"{title}: the original", row.faster("ours", "original"), 5.0),
        *_memory_checks(row, row.bytes),
    ]
    return row


def memory_kept(setup: Setup) -> Row:
    return _kept(setup, "memory_kept", "tmpfs, tensors kept", setup.memory)


def cached_kept(setup: Setup) -> Row:
    """With what registering the files' own pages would give."""
    registered = setup.link("registered mapping", "--register")
    return _kept(setup, "cached_kept", "page cache, tensors kept", setup.dense, [registered])


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
    # Of so few bytes as a dry run has, too many stay in the page cache.
    state = "any" if setup.standin else "cold"
    runnables = [setup.job(peer, "keep", setup.dense, cache=state) for peer in setup.loaders]
    raw: Runnable = ("raw reader", lambda: runner.raw("direct", setup.dense, state, 16))
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
    """The consumer keeps nothing."""
    runnables = [setup.job(peer, "copy", setup.dense) for peer in setup.loaders]
    row = setup.run("dropped", "page cache, copy_ into parameters", setup.dense, runnables)
    row.checks += _memory_checks(row, 0)
    return row


def group_of_one(setup: Setup) -> Row:
    """What distributed streaming costs where there is nobody to share with."""
    options: dict[str, Any] = {"backend": "nccl", "distributed": True, "alone": True}
    if setup.standin:
        options |= {"backend": "gloo", "device": "cpu"}
    runnables = [
        setup.job("ours", "keep", setup.dense),
        setup.job("ours", "keep", setup.dense, "ours, a group of one", options=options),
    ]
    return setup.run("group_of_one", "NCCL, world size 1", setup.dense, runnables)


ROWS: dict[str, Callable[[Setup], Row]] = {
    "memory_kept": memory_kept,
    "cached_kept": cached_kept,
    "cached_into": cached_into,
    "cold_kept": cold_kept,
    "http_kept": http_kept,
    "small_kept": small_kept,
    "dropped": dropped,
    "group_of_one": group_of_one,
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


MakeDense = Callable[[Path], list[str]]


def _in_memory(folder: Path, gigabytes: float, make: MakeDense) -> list[str]:
    """A copy of the dense checkpoint in memory; nothing where there is no room."""
    free = shutil.disk_usage(folder).free
    if free < gigabytes * 1.1e9:
        print(f"{folder} has {free / 1e9:.1f} GB left: memory_kept is left out (--memory DIR)")
        return []
    return make(folder / f"streamer-bench-{os.getpid()}")


@contextlib.contextmanager
def _files(options: argparse.Namespace) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """The dense checkpoint, its copy in memory, and the one of small tensors."""
    specs, count = checkpoints.llama_specs(options.gigabytes), 60_000
    folder = runner.data_folder(options.data)
    if options.standin:
        specs, count = checkpoints.llama_specs(0.01, hidden=256, vocabulary=2000), 500

    def make_dense(place: Path) -> list[str]:
        return checkpoints.make(place, specs, files=4)

    print("Making checkpoints (once)", flush=True)
    dense = make_dense(folder / f"dense-{options.gigabytes:g}")
    small = checkpoints.small(folder / f"small-{count}", count)
    memory = _in_memory(Path(options.memory), options.gigabytes, make_dense)
    try:
        yield dense, memory, small
    finally:
        if memory:
            shutil.rmtree(Path(memory[0]).parent)


def _prepare(options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    """Finds the GPU, or makes the stand-in for a dry run."""
    if not options.standin:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("PyTorch sees no GPU; --standin runs through everything without one")
        return
    from benchmarks import standin

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ["BENCH_STANDIN"] = str(standin.build(folder))
    options.rounds, options.gigabytes, options.data = 1, 0.01, str(folder)


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
    parser.add_argument(
        "--standin", action="store_true", help="a dry run without a GPU: every row once, tiny"
    )
    options = parser.parse_args(arguments)
    wanted = [key for key in ROWS if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    loaders = [name for name in options.loaders.split(",") if name]
    unknown = [name for name in loaders if name not in PEERS]
    if unknown or not wanted:
        parser.error(f"unknown loader: {unknown[0]}" if unknown else "no such row")
    if options.wheels:
        use_wheels(options.wheels)
        loaders = [name for name in loaders if not PEERS[name].requirements]
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        _prepare(options, stack)
        STATE.mkdir(parents=True, exist_ok=True)
        for name in loaders:
            PEERS[name].python()
        dense, memory, small = stack.enter_context(_files(options))
        setup = Setup(
            dense, memory, small, loaders, options.rounds, options.device, options.standin
        )
        rows = [ROWS[key](setup) for key in wanted if key != "memory_kept" or memory]
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.standin:
        failed = [row.key for row in rows if any("error" in s for s in row.samples["ours"])]
        print(f"A dry run: no figure above means anything. Failed rows: {failed or 'none'}")
        return 1 if failed else 0
    if options.row is None:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / "gpu.json")
        report.save("gpu", "One GPU", rows, options.rounds, samples)
        print("Written: benchmarks/results/gpu.json, gpu.png, docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
