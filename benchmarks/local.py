"""Local files: `python -m benchmarks.local`, or `make bench`.

Each row is one work that every loader does; see `ROWS`. All rows together renew
benchmarks/results/local.json, its plot and docs/benchmarks.md; single rows are only printed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cache, checkpoints, report, runner
from benchmarks.peers import PEERS, ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from tests.support.servers import Unavailable
from tests.support.servers.file_mount import FileMount

LIMIT = 200_000_000


@dataclass
class Setup:
    """What every row gets."""

    dense: list[str]
    small: list[str]
    loaders: list[str]
    rounds: int

    def job(self, peer: str, work: str, files: list[str], label: str = "", **more: Any) -> Runnable:
        job = Job(label or peer, peer, work, files, files, **more)
        return job.label, lambda: runner.run(job)

    def jobs(self, work: str, files: list[str], cache: str) -> list[Runnable]:
        return [self.job(peer, work, files, cache=cache) for peer in self.loaders]

    def run(self, key: str, title: str, files: list[str], runnables: Sequence[Runnable]) -> Row:
        print(f"\n{key}: {title}", flush=True)
        samples = runner.interleave(runnables, self.rounds, lambda text: print(text, flush=True))
        return Row(key, title, checkpoints.total_bytes(files), samples)


def raw_buffered(setup: Setup) -> Runnable:
    threads = os.cpu_count() or 1
    return "raw reader", lambda: runner.raw("buffered", setup.dense, "warm", threads)


def raw_direct(setup: Setup) -> Runnable:
    return "raw reader", lambda: runner.raw("direct", setup.dense, "cold", 16)


def cached_iterate(setup: Setup) -> Row:
    runnables = [*setup.jobs("iterate", setup.dense, "warm"), raw_buffered(setup)]
    row = setup.run("cached_iterate", "cached, iterate and touch", setup.dense, runnables)
    row.checks += [
        Check("cached, iterate: safetensors", row.faster("ours", "safetensors"), 1.0),
        Check("cached, iterate: the original", row.faster("ours", "original"), 6.0),
    ]
    return row


def cached_copy(setup: Setup) -> Row:
    runnables = [*setup.jobs("copy", setup.dense, "warm"), raw_buffered(setup)]
    row = setup.run("cached_copy", "cached, copy_ into parameters", setup.dense, runnables)
    row.checks += [
        Check("cached, copy_: safetensors", row.faster("ours", "safetensors"), 1.0),
        Check("cached, copy_: the original", row.faster("ours", "original"), 3.0),
    ]
    return row


def cached_into(setup: Setup) -> Row:
    peers = [peer for peer in setup.loaders if peer != "ours"]
    runnables = [
        setup.job("ours", "into", setup.dense),
        *(setup.job(peer, "copy", setup.dense, f"{peer} copy_") for peer in peers),
        raw_buffered(setup),
    ]
    row = setup.run("cached_into", "cached, into= parameters", setup.dense, runnables)
    ratios = [row.faster("ours", f"{peer} copy_") for peer in peers]
    best = min((ratio for ratio in ratios if ratio is not None), default=None)
    row.checks += [Check("cached, into=: the best peer's copy_", best, 1.3)]
    return row


def cold_copy(setup: Setup) -> Row:
    runnables = [*setup.jobs("copy", setup.dense, "cold"), raw_direct(setup)]
    row = setup.run("cold_copy", "cold, copy_ into parameters", setup.dense, runnables)
    row.checks += [
        Check("cold, copy_: the raw reader", row.faster("ours", "raw reader"), 0.9),
        Check("cold, copy_: the original", row.faster("ours", "original"), 1.2),
        Check("cold, copy_: safetensors", row.faster("ours", "safetensors"), 2.0),
    ]
    return row


def cold_into(setup: Setup) -> Row:
    runnables = [setup.job("ours", "into", setup.dense, cache="cold"), raw_direct(setup)]
    return setup.run("cold_into", "cold, into= parameters", setup.dense, runnables)


def cold_two(setup: Setup) -> Row:
    # No copy_: torch's threads of two processes wait for one another in loops on two CPUs.
    runnables = [
        setup.job(peer, "iterate", setup.dense, label, cache="cold", processes=processes)
        for peer in setup.loaders
        if peer in ("ours", "original")  # the others take long and tell nothing about sharing
        for label, processes in ((peer, 1), (f"{peer} twice", 2))
    ]
    # What one pays for the page cache, which two share.
    mapped = {"RUNAI_STREAMER_FS_STRATEGY": "mapped"}
    runnables += [
        setup.job("ours", "iterate", setup.dense, "ours, page cache", cache="cold", env=mapped)
    ]
    row = setup.run("cold_two", "cold, one and two processes", setup.dense, runnables)
    row.checks += [
        Check(
            f"two processes on cold files: {name}",
            row.faster(one, "ours twice"),
            1.3,
            at_most=True,
        )
        for name, one in (("one", "ours"), ("one by the page cache", "ours, page cache"))
    ]
    return row


def small_cached(setup: Setup) -> Row:
    runnables = setup.jobs("keep", setup.small, "warm")
    row = setup.run("small_cached", "60,000 small tensors, cached", setup.small, runnables)
    seconds = runner.median(row.samples["ours"], "seconds") if "ours" in row.samples else None
    tensors = runner.median(row.samples["ours"], "tensors") if "ours" in row.samples else None
    each = seconds / tensors * 1e6 if seconds and tensors else None
    row.checks += [
        Check("small tensors: time for each", each, 10.0, at_most=True, unit="us"),
        Check("small tensors: the original", row.faster("ours", "original"), 5.0),
    ]
    return row


def memory_limit(setup: Setup) -> Row:
    limited = {"RUNAI_STREAMER_MEMORY_LIMIT": str(LIMIT)}
    runnables = []
    for state, work, name in (("warm", "iterate", "cached iterate"), ("cold", "copy", "cold copy")):
        runnables += [
            setup.job("ours", work, setup.dense, name, cache=state),
            setup.job("ours", work, setup.dense, f"{name}, 200 MB", cache=state, env=limited),
        ]
    row = setup.run("memory_limit", "memory limit 200 MB", setup.dense, runnables)
    for label, _ in runnables[::2]:
        samples = row.samples[f"{label}, 200 MB"]
        growth = max((s["anonymous_growth"] for s in samples if "error" not in s), default=None)
        row.checks += [
            Check(
                f"limit 200 MB, {label}: anonymous memory",
                None if growth is None else growth / 1e6,
                (LIMIT + (64 << 20)) / 1e6,
                at_most=True,
                unit="MB",
            ),
            Check(f"limit 200 MB, {label}: default", row.faster(f"{label}, 200 MB", label), 0.9),
        ]
    return row


def keep_small(setup: Setup) -> Row:
    peers = [peer for peer in setup.loaders if peer != "fastsafetensors"]  # keeps whole files
    runnables = [setup.job(peer, "keep_small", setup.dense) for peer in peers]
    runnables += [
        setup.job("ours", work, setup.dense, label, cache="cold")
        for label, work in (("ours, cold", "keep_small"), ("ours, cold, keeping none", "iterate"))
    ]
    row = setup.run("keep_small", "keep tensors below 64 KiB", setup.dense, runnables)
    row.bytes = 0  # a rate would mean nothing: some loaders do not read what is dropped
    grown = {
        label: max((s["anonymous_growth"] for s in samples if "error" not in s), default=None)
        for label, samples in row.samples.items()
    }
    # Cold bytes pass through the memory of the engine, whatever is kept of them.
    for label, passing in (("ours", 0), ("ours, cold", grown.get("ours, cold, keeping none"))):
        growth = grown.get(label)
        value = None if growth is None or passing is None else (growth - passing) / 2**20
        row.checks += [
            Check(f"keeping small tensors, {label}", value, 64, at_most=True, unit="MiB")
        ]
    return row


def load_file(setup: Setup) -> Row:
    size = checkpoints.total_bytes(setup.dense)

    def page_cache() -> dict[str, Any]:
        return {"page_cache": cache.cached_fraction(setup.dense) * size}

    runnables = [
        setup.job(peer, "load_file", setup.dense, cache="cold", after=page_cache)
        for peer in setup.loaders
        if peer in ("ours", "safetensors", "original")
    ]
    row = setup.run("load_file", "cold, load_file, all kept", setup.dense, runnables)
    for label, samples in row.samples.items():
        anonymous = (runner.median(samples, "anonymous_growth") or 0) / size
        cached = (runner.median(samples, "page_cache") or 0) / size
        print(f"  {label}: anonymous memory {anonymous:.2f} x, page cache {cached:.2f} x the files")
        taken = [s["anonymous_growth"] + s["page_cache"] for s in samples if "error" not in s]
        if label == "ours":
            value = max(taken) / size if taken else None
            text = "load_file: page cache and anonymous memory, by the model's size"
            row.checks.append(Check(text, value, 1.05, at_most=True))
    return row


def sha256_alone(setup: Setup) -> dict[str, Any]:
    """One thread that reads the files and does nothing else."""
    cache.force("warm", setup.dense)
    before, start = time.process_time(), time.monotonic()
    for path in setup.dense:
        checkpoints.sha256(path)
    end = time.monotonic()
    return {"seconds": end - start, "cpu_seconds": time.process_time() - before}


def verify(setup: Setup) -> Row:
    manifest = {"RUNAI_STREAMER_VERIFY": checkpoints.manifest(setup.dense)}
    # Copies, as verified tensors are, and as those of all storage but the page cache are.
    copies = {"RUNAI_STREAMER_FS_STRATEGY": "buffered"}
    runnables: list[Runnable] = [
        setup.job("ours", "iterate", setup.dense, "ours, copies", env=copies),
        setup.job("ours", "iterate", setup.dense, "ours, verify", env=manifest),
        ("SHA-256 alone", lambda: sha256_alone(setup)),
    ]
    row = setup.run("verify", "verify=, cached, iterate", setup.dense, runnables)
    cpu = {label: runner.median(samples, "cpu_seconds") for label, samples in row.samples.items()}
    verified, copied, alone = (cpu[label] for label, _ in runnables)
    parts = copied + alone if copied and alone else None
    row.checks += [
        Check(
            "verify=: processors, by copies and SHA-256 alone",
            verified / parts if verified and parts else None,
            1.1,
            at_most=True,
        ),
        # Storage of 1 GB/s for each processor leaves a second of a processor for a GB. Only a
        # processor with instructions for SHA-256 can do it.
        Check(
            "verify=: processors, for storage of 1 GB/s a processor",
            verified / row.bytes * 1e9 if verified else None,
            1.1,
            at_most=True,
            unit="s/GB",
        ),
    ]
    return row


def on_mount(
    setup: Setup, label: str, work: Callable[[list[str]], dict[str, Any]], **options: float
) -> Runnable:
    """`work` with the files at a fresh mount, which has nothing of them in the page cache."""
    directory = Path(setup.dense[0]).parent

    def call() -> dict[str, Any]:
        try:
            with FileMount(directory, **options) as mount:
                return work([str(mount.path / Path(path).name) for path in setup.dense])
        except Unavailable as reason:
            return {"error": str(reason)}

    return label, call


def load_at(setup: Setup, concurrency: int = 0) -> Callable[[list[str]], dict[str, Any]]:
    env = {"RUNAI_STREAMER_CONCURRENCY": str(concurrency)} if concurrency else {}
    return lambda files: runner.run(Job("ours", "ours", "iterate", files, setup.dense, env=env))


def cat(files: list[str]) -> dict[str, Any]:
    start = time.monotonic()
    buffer = bytearray(1 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return {"seconds": time.monotonic() - start}


def mount_in_order(setup: Setup) -> Row:
    mount = {"jump_ms": 40, "window": 1 << 20, "rate": 400e6}
    runnables = [
        on_mount(setup, "ours", load_at(setup), **mount),
        on_mount(setup, "cat", cat, **mount),
        on_mount(setup, "ours, 16 reads", load_at(setup, 16), **mount),
    ]
    title = "mount that fetches ahead, 400 MB/s, 40 ms a jump"
    row = setup.run("mount_in_order", title, setup.dense, runnables)
    row.checks.append(
        Check("mount that fetches ahead: cat", row.faster("cat", "ours"), 1.5, at_most=True)
    )
    return row


def mount_far(setup: Setup) -> Row:
    fixed = {f"ours, {reads} reads": reads for reads in (1, 8, 16, 32, 64)}
    runnables = [on_mount(setup, "ours", load_at(setup), read_ms=5)]
    runnables += [
        on_mount(setup, label, load_at(setup, reads), read_ms=5) for label, reads in fixed.items()
    ]
    row = setup.run("mount_far", "mount with 5 ms a request", setup.dense, runnables)
    ratios = [row.faster("ours", label) for label in fixed]
    best = min((ratio for ratio in ratios if ratio is not None), default=None)
    row.checks.append(Check("mount with 5 ms a request: the best fixed number", best, 0.9))
    return row


def import_time(setup: Setup) -> Row:
    code = (
        "import json, resource, time, torch; t = time.perf_counter(); import {}; "
        "print(json.dumps({{'seconds': time.perf_counter() - t}}))"
    )

    def call(peer: str) -> dict[str, Any]:
        module = {"fastsafetensors": "fastsafetensors", "safetensors": "safetensors.torch"}
        done = subprocess.run(
            [PEERS[peer].python(), "-c", code.format(module.get(peer, "runai_model_streamer"))],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def runnable(peer: str) -> Runnable:
        return peer, lambda: call(peer)

    row = setup.run("import", "import after torch", [], [runnable(peer) for peer in setup.loaders])
    seconds = runner.median(row.samples.get("ours", []), "seconds")
    value = None if seconds is None else seconds * 1e3
    row.checks += [Check("import beyond torch", value, 50, at_most=True, unit="ms")]
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {
    "cached_iterate": cached_iterate,
    "cached_copy": cached_copy,
    "cached_into": cached_into,
    "cold_copy": cold_copy,
    "cold_into": cold_into,
    "cold_two": cold_two,
    "small_cached": small_cached,
    "memory_limit": memory_limit,
    "keep_small": keep_small,
    "load_file": load_file,
    "verify": verify,
    "mount_in_order": mount_in_order,
    "mount_far": mount_far,
    "import": import_time,
}
LOADERS = ["ours", "safetensors", "original", "fastsafetensors"]


def compare_everything(setup: Setup) -> bool:
    """Every loader, both checkpoints, every byte; not timed."""
    print("Comparing every byte that every loader gives", flush=True)
    good = True
    for peer in setup.loaders:
        for name, files in (("dense", setup.dense), ("small", setup.small)):
            result = runner.run(Job(peer, peer, "compare", files, files))
            good &= "error" not in result or peer != "ours"
            print(f"  {peer}, {name}: {result.get('error', 'equal')}", flush=True)
    return good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local", description=__doc__)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--loaders", default=",".join(LOADERS), help="default: all, by commas")
    parser.add_argument("--gigabytes", type=float, default=2.9, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept (a real disk)")
    parser.add_argument("--no-compare", action="store_true", help="leave the untimed check out")
    options = parser.parse_args(arguments)

    wanted = [key for key in ROWS if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    loaders = [name for name in options.loaders.split(",") if name]
    unknown = [name for name in loaders if name not in PEERS]
    if unknown or not wanted:
        parser.error(f"unknown loader: {unknown[0]}" if unknown else "no such row")
    directory = runner.data_directory(options.data)
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    for name in loaders:
        PEERS[name].python()
    print("Making checkpoints (once)", flush=True)
    setup = Setup(
        checkpoints.dense(directory / "dense", options.gigabytes),
        checkpoints.small(directory / "small"),
        loaders,
        options.rounds,
    )
    start = time.monotonic()
    complete = options.row is None and loaders == LOADERS
    good = True
    if not options.no_compare and (complete or options.row is None):
        good = compare_everything(setup)
    rows = [ROWS[key](setup) for key in wanted]
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if complete:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / "local.json")
        report.save("local", "Local files, CPU destination", rows, options.rounds, samples)
        print("Written: benchmarks/results/local.json, local.png, docs/benchmarks.md")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
