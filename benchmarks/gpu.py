"""Loads to one GPU: `python -m benchmarks.gpu`, or `make bench-gpu`.

Works like benchmarks.local, with the pinned host-to-device copy rate of the same run as the limit.
Where packages can't be installed, --wheels names a directory with the peers' wheels. Where a
command may take only so long, --minutes ends it in time and --add goes on with what was measured
before.
--standin runs through every row without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, report, runner, wheels
from benchmarks.gpu_rows import LOADERS, ROWS, Plan, Setup
from benchmarks.peers import PEERS, ROOT, STATE
from benchmarks.report import Row

SAMPLES = ROOT / "benchmarks" / "results" / "raw" / "gpu.json"


def _in_memory(directory: Path, dense: list[str]) -> list[str]:
    """A copy of the dense checkpoint in memory; nothing if there is no room."""
    free = shutil.disk_usage(directory).free
    if free < checkpoints.total_bytes(dense) * 1.1:
        print(f"{directory} has only {free / 1e9:.1f} GB left (--memory DIR names another)")
        return []
    copy = shutil.copytree(Path(dense[0]).parent, directory / f"streamer-bench-{os.getpid()}")
    return [str(copy / Path(file).name) for file in dense]


@contextlib.contextmanager
def _files(options: argparse.Namespace) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """The dense checkpoint, its copy in memory, and the one of small tensors."""
    specs, count = checkpoints.llama_specs(options.gigabytes), 60_000
    directory = runner.data_directory(options.data)
    if options.standin:
        specs, count = checkpoints.llama_specs(0.01, hidden=256, vocabulary=2000), 500
    print("Making checkpoints (once)", flush=True)
    dense = checkpoints.make(directory / f"dense-{options.gigabytes:g}", specs, files=4)
    small = checkpoints.small(directory / f"small-{count}", count)
    memory = _in_memory(Path(options.memory), dense)
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

    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ["BENCH_STANDIN"] = str(standin.build(directory))
    options.rounds, options.gigabytes, options.data = 1, 0.01, str(directory)


def _plans(setup: Setup) -> dict[str, Plan]:
    plans = {}
    for key, make in ROWS.items():
        plan = make(setup)
        if plan is None:
            print(f"{key} is left out: what it needs is not there")
        else:
            plans[key] = plan
    return plans


def row_of(key: str, plan: Plan, earlier: dict[str, Any]) -> Row:
    """With the samples of an earlier run, if it measured the same."""
    labels = [label for label, _ in plan.runnables]
    samples = earlier.get(key, {})
    if list(samples) != labels:
        samples = {label: [] for label in labels}
    return Row(key, plan.title, checkpoints.total_bytes(plan.files), samples)


def measure(plans: dict[str, Plan], rows: dict[str, Row], rounds: int, deadline: float) -> None:
    """Each row once per round, so that an early end leaves something of each. Nothing is begun that
    would take longer than until `deadline`, as the same row did before."""
    took: dict[str, float] = {}
    for round_ in range(rounds):
        print(f"\nround {round_ + 1} of {rounds}", flush=True)
        for key, plan in plans.items():
            begin = time.monotonic()
            if begin + took.get(key, 0.0) > deadline:
                print(f"  no time is left for {key}")
                return
            shown = runner.one_round(plan.runnables, rows[key].samples)
            took[key] = time.monotonic() - begin
            print(f"  {key}: " + ", ".join(shown), flush=True)


def _save(rows: dict[str, Row], plans: dict[str, Plan]) -> None:
    measured = [row for row in rows.values() if any(row.samples.values())]
    for row in measured:
        row.checks = plans[row.key].checks(row)
    rounds = min(len(samples) for row in measured for samples in row.samples.values())
    report.save("gpu", "One GPU", measured, rounds, SAMPLES)
    print(f"Written: {SAMPLES.relative_to(ROOT)}, results/gpu.json, gpu.png, docs/benchmarks.md")


def _dry_run_failures(rows: dict[str, Row]) -> list[str]:
    """InstantTensor needs a GPU even to start; all else has to work."""
    return [
        f"{row.key}, {label}: {sample['error']}"
        for row in rows.values()
        for label, samples in row.samples.items()
        for sample in samples
        if "error" in sample and label != "instanttensor"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--minutes", type=float, help="end after these, with fewer rounds")
    parser.add_argument(
        "--add", action="store_true", help="add rounds to what was measured here before"
    )
    parser.add_argument("--loaders", default=",".join(LOADERS), help="default: all, by commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept (a real disk)")
    parser.add_argument("--memory", default="/dev/shm", help="a file system in memory")
    parser.add_argument("--wheels", type=Path, help="a directory with wheels of the peers")
    parser.add_argument(
        "--standin", action="store_true", help="a dry run without a GPU: every row once, tiny"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    start = time.monotonic()
    parser = _parser()
    options = parser.parse_args(arguments)
    patterns = options.row or ["*"]
    loaders = [name for name in options.loaders.split(",") if name]
    unknown = [name for name in loaders if name not in PEERS]
    if unknown or not any(fnmatch.fnmatch(key, p) for key in ROWS for p in patterns):
        parser.error(f"unknown loader: {unknown[0]}" if unknown else "no such row")
    STATE.mkdir(parents=True, exist_ok=True)
    if options.wheels:
        wheels.use(options.wheels, loaders)
        absent = [name for name in loaders if PEERS[name].requirements]
        loaders = [name for name in loaders if name not in absent]
        if absent:
            print(f"No wheel of {', '.join(absent)} in {options.wheels}: left out")
    with contextlib.ExitStack() as stack:
        _prepare(options, stack)
        for name in loaders:
            PEERS[name].python()
        setup = Setup(
            *stack.enter_context(_files(options)), loaders, options.device, options.standin, stack
        )
        plans = _plans(setup)
        earlier = json.loads(SAMPLES.read_text()) if options.add and SAMPLES.exists() else {}
        rows = {key: row_of(key, plan, earlier) for key, plan in plans.items()}
        wanted = {k: v for k, v in plans.items() if any(fnmatch.fnmatch(k, p) for p in patterns)}
        save = not options.standin and (options.row is None or options.add)
        deadline = start + options.minutes * 60 if options.minutes else float("inf")
        try:
            measure(wanted, rows, options.rounds, deadline)
        finally:
            if save and any(samples for row in rows.values() for samples in row.samples.values()):
                _save(rows, plans)
    shown = [rows[key] for key in wanted if any(rows[key].samples.values())]
    for row in shown:
        row.checks = plans[row.key].checks(row)
    report.show(shown)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.standin:
        failed = _dry_run_failures(rows)
        print("A dry run: no figure above means anything. Failed:", *(failed or ["none"]), sep="\n")
        return 1 if failed else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
