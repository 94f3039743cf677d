"""Distributed streaming: `python -m benchmarks.dist`, or `make bench-dist`.

Ranks are processes of this machine with gloo; the store is nginx, which the original reaches as S3.
All rows together renew benchmarks/results/dist.json, its plot and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, report, runner
from benchmarks.dist_link import slow_link
from benchmarks.peers import PEERS, ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from benchmarks.s3 import waking
from tests.support.servers.counting import CountingStore

RANKS = (2, 4)
LIMIT = 400_000_000
RATE = 200  # MB/s of the slow link
STAGING = 3 * (16 << 20)  # of each rank


@dataclass
class Setup:
    directory: Path
    dense: list[str]
    small: list[str]
    rounds: int
    store: CountingStore
    env: dict[str, str] = field(default_factory=dict)

    def job(
        self,
        label: str,
        peer: str,
        files: list[str],
        ranks: int,
        store: CountingStore | None = None,
        env: dict[str, str] | None = None,
        distributed: bool = True,
        work: str = "iterate",
    ) -> Runnable:
        """One load by `ranks` ranks, from `store` or from the local files."""
        chosen = {"OMP_NUM_THREADS": "1", "RUNAI_STREAMER_DIST": "1", **(env or {})}
        chosen["RES_OPTIONS"] = "timeout:1"  # torch looks up the names of addresses
        more: dict[str, Any] = {}
        if store is not None:
            chosen |= store.env()
            sent: Callable[[], dict[str, Any]] = lambda: {"sent": store.sent()}  # noqa: E731
            more = {"before": lambda: self.prepare(store), "after": sent}
        job = Job(
            label,
            peer,
            work,
            files if store is None else store.uris(files),
            files,
            env=chosen,
            options={"distributed": distributed},
            ranks=ranks,
            **more,
        )
        return job.label, lambda: runner.run(job)

    def prepare(self, store: CountingStore) -> None:
        if store is self.store:  # the other one is slow, and out of reach from here
            waking(self.dense, store)()
            while store.sent() < os.path.getsize(self.dense[0]):  # in its log
                time.sleep(0.01)
        store.forget()

    def run(self, key: str, title: str, files: list[str], runnables: list[Runnable]) -> Row:
        print(f"\n{key}: {title}", flush=True)
        samples = runner.interleave(runnables, self.rounds, lambda text: print(text, flush=True))
        return Row(key, title, checkpoints.total_bytes(files), samples)


def _most(row: Row, label: str, key: str) -> float | None:
    values = [sample[key] for sample in row.samples.get(label, []) if sample.get(key) is not None]
    return max(values, default=None)


def _against_original(
    setup: Setup, key: str, title: str, files: list[str], times: float, work: str
) -> Row:
    env = {"RUNAI_STREAMER_MEMORY_LIMIT": str(LIMIT)}
    runnables = []
    for ranks in RANKS:
        runnables += [
            setup.job(f"ours, {ranks} ranks", "ours", files, ranks, setup.store, env, work=work),
            setup.job(
                f"original, {ranks} ranks", "original-s3", files, ranks, setup.store, work=work
            ),
        ]
    row = setup.run(key, title, files, runnables)
    for ranks in RANKS:
        ours = f"ours, {ranks} ranks"
        sent = _most(row, ours, "sent")
        row.checks += [
            Check(f"{title}, {ranks} ranks: the original",
                  row.faster(ours, f"original, {ranks} ranks"), times),
            Check(f"{title}, {ranks} ranks: bytes sent by the store, model's size",
                  None if sent is None else sent / row.bytes, 1.01, at_most=True),
        ]  # fmt: skip
    return row


def dense(setup: Setup) -> Row:
    row = _against_original(
        setup, "dense", "2.9 GB dense from a store", setup.dense, 2.0, "iterate"
    )
    for ranks in RANKS:
        # The rank's part of the limit, where complete tensors wait; and its staging memory, or
        # twice the largest tensor. The system does not count memory that ranks share as theirs.
        part = LIMIT / ranks
        largest = max(d.nbytes for d in checkpoints.Reference(setup.dense).values())
        growth = _most(row, f"ours, {ranks} ranks", "anonymous_growth")
        row.checks.append(
            Check(f"dense, {ranks} ranks: memory of a rank beyond its tensors",
                  None if growth is None else (growth + STAGING) / 1e6,
                  (part + max(STAGING, 2 * largest)) / 1e6, at_most=True, unit="MB")
        )  # fmt: skip
    return row


def small(setup: Setup) -> Row:
    title = "60,000 small tensors from a store"
    return _against_original(setup, "small", title, setup.small, 5.0, "keep")


def slow_store(setup: Setup) -> Row:
    with slow_link(RATE) as (address, run_there):
        store = CountingStore(setup.directory, address, run_there)
        try:
            store.start()
            runnables = [
                setup.job("store alone", "ours", setup.dense, 1, store, distributed=False),
                setup.job("ours, 4 ranks", "ours", setup.dense, 4, store),
            ]
            title = f"2.9 GB from a store of {RATE} MB/s"
            row = setup.run("slow_store", title, setup.dense, runnables)
        finally:
            store.stop()
    ratio = row.faster("store alone", "ours, 4 ranks")
    row.checks.append(
        Check(f"{title}, 4 ranks: time of the store alone", ratio, 1.15, at_most=True)
    )
    return row


def cached(setup: Setup) -> Row:
    auto = {"RUNAI_STREAMER_DIST": "auto"}
    runnables = [
        setup.job("not distributed", "ours", setup.dense, 2, distributed=False),
        setup.job("auto", "ours", setup.dense, 2, env=auto),
        setup.job("always", "ours", setup.dense, 2),
    ]
    row = setup.run("cached", "cached local files, 2 ranks", setup.dense, runnables)
    row.checks.append(
        Check("cached, auto: not distributed", row.faster("auto", "not distributed"), 0.95)
    )
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {
    function.__name__: function for function in (dense, small, slow_store, cached)
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dist", description=__doc__)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--gigabytes", type=float, default=2.9, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept")
    options = parser.parse_args(arguments)
    wanted = [key for key in ROWS if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    if not wanted:
        parser.error("no such row")
    directory = runner.data_directory(options.data)
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    if {"dense", "small"} & set(wanted):
        PEERS["original-s3"].python()
    print("Making checkpoints (once)", flush=True)
    store = CountingStore(directory)
    setup = Setup(
        directory,
        checkpoints.dense(directory / "dense", options.gigabytes),
        checkpoints.small(directory / "small"),
        options.rounds,
        store,
    )
    start = time.monotonic()
    try:
        store.start()
        rows = [ROWS[key](setup) for key in wanted]
    finally:
        store.stop()
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.row is None and options.gigabytes == 2.9:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / "dist.json")
        title = f"Distributed streaming, gloo, ranks on {os.cpu_count()} CPUs"
        report.save("dist", title, rows, options.rounds, samples)
        print("Written: benchmarks/results/dist.json, dist.png, docs/benchmarks.md")
    return 0 if all(check.passed for row in rows for check in row.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
