"""Runs jobs: processes that start together, sampled from outside, in interleaved rounds."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cache
from benchmarks.peers import PEERS, ROOT, Peer

_PAGE = resource.getpagesize()
_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Job:
    """One loader doing one work on one checkpoint."""

    label: str  # unique in its row
    peer: str  # key of PEERS
    work: str  # key of worker.WORKS
    files: list[str]  # paths or URIs, as the loader gets them
    reference: list[str]  # the same checkpoint on local disk, to compare with
    cache: str = "warm"  # warm, cold, any: state of the reference files before each run
    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # for the adapter
    processes: int = 1  # independent ones that start at once
    ranks: int = 1  # or: ranks of one torch.distributed group
    prefix: tuple[str, ...] = ()  # command that the process runs under, e.g. ip netns exec
    timeout: float = 300.0
    before: Callable[[], None] | None = None  # called before each run, e.g. to reset a server
    after: Callable[[], dict[str, Any]] | None = None  # called after each run; added to the sample


class JobError(RuntimeError):
    pass


class _Worker:
    """One process of a job."""

    def __init__(self, job: Job, peer: Peer, rank_env: dict[str, str]) -> None:
        spec = {
            "adapter": peer.adapter,
            "work": job.work,
            "files": job.files,
            "reference": job.reference,
            "options": job.options,
            "ranks": job.ranks,
        }
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
        if not peer.requirements and os.environ.get("PYTHONPATH"):
            env["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
        env |= peer.env | job.env | rank_env
        self.log = (ROOT / ".cache" / "bench" / "worker.log").open("ab+")
        self.log_start = self.log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [*job.prefix, peer.python(), "-m", "benchmarks.worker", json.dumps(spec)],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.buffer = b""
        self.base = self.peak = 0

    def anonymous(self) -> int:
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                _, resident, shared, *_ = file.read().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * _PAGE

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # wait_for tells why

    def lines(self) -> list[str]:
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        if not data:
            raise JobError(f"ended with status {self.process.wait()}: {self.last_words()}")
        self.buffer += data
        *complete, self.buffer = self.buffer.split(b"\n")
        return [line.decode() for line in complete]

    def last_words(self) -> str:
        self.log.seek(self.log_start)
        text = self.log.read().decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "(no message)"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


def _wait_for(
    workers: list[_Worker], word: str, deadline: float, sample: bool = False
) -> list[Any]:
    """Waits until each worker has said `word`, and returns what followed it."""
    said: dict[int, Any] = {}
    with selectors.DefaultSelector() as selector:
        for index, worker in enumerate(workers):
            assert worker.process.stdout is not None
            selector.register(worker.process.stdout, selectors.EVENT_READ, index)
        while len(said) < len(workers):
            if time.monotonic() > deadline:
                raise JobError(f"no {word} in time")
            for key, _ in selector.select(_SAMPLE_SECONDS if sample else 1.0):
                for line in workers[key.data].lines():
                    head, _, rest = line.partition(" ")
                    if head == word:
                        said[key.data] = json.loads(rest) if rest else None
                        selector.unregister(key.fileobj)
            if sample:
                for index, worker in enumerate(workers):
                    if index not in said:
                        worker.peak = max(worker.peak, worker.anonymous())
    return [said[index] for index in range(len(workers))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(job: Job) -> dict[str, Any]:
    """Runs `job` once. The sample has an `error` if it failed, else the measurements."""
    peer = PEERS[job.peer]
    count = max(job.processes, job.ranks)
    port = _free_port() if job.ranks > 1 else 0
    workers: list[_Worker] = []
    deadline = time.monotonic() + job.timeout
    try:
        for rank in range(count):
            rank_env = {}
            if job.ranks > 1:
                rank_env = {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            workers.append(_Worker(job, peer, rank_env))
        _wait_for(workers, "READY", deadline)
        cache.force(job.cache, job.reference)
        if job.before:
            job.before()
        for worker in workers:
            worker.base = worker.peak = worker.anonymous()
        start = time.monotonic()
        for worker in workers:
            worker.say("GO")
        done = _wait_for(workers, "DONE", deadline, sample=True)
        elapsed = time.monotonic() - start
        extra = job.after() if job.after else {}
        for worker in workers:
            worker.say("CHECK")
        problems = [text for text in _wait_for(workers, "CHECKED", deadline + 120) if text]
        if problems:
            raise JobError(f"wrong result: {problems[0]}")
        return {
            "seconds": max(d["seconds"] for d in done) if count == 1 else elapsed,
            "cpu_seconds": sum(d["cpu_seconds"] for d in done),
            "first_seconds": max((d["first_seconds"] or 0.0) for d in done),
            "tensors": done[0]["tensors"],
            "anonymous_growth": max(
                max(w.peak - w.base, d["end_anonymous"]) for w, d in zip(workers, done, strict=True)
            ),
            "version": done[0]["version"],
            "stats": done[0]["stats"],
            "device_growth": done[0]["device_growth"],
            **extra,
        }
    except (JobError, OSError, RuntimeError) as error:
        return {"error": f"{error}"}
    finally:
        for worker in workers:
            worker.close()


def raw(mode: str, files: list[str], state: str, threads: int, block: int = 2 << 20) -> dict:
    """The machine's limit: what reading does with no library at all."""
    binary = os.environ.get("BENCH_RAW_READER", str(ROOT / "build/plain/benchmarks/raw_reader"))
    command = [binary, mode, str(threads), str(block), *files]
    try:
        cache.force(state, files)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except (OSError, RuntimeError) as error:
        return {"error": str(error)}
    if done.returncode != 0:
        return {"error": done.stderr.strip()}
    return {"anonymous_growth": threads * block, **json.loads(done.stdout)}


Runnable = tuple[str, Callable[[], dict[str, Any]]]


def one_round(runnables: Sequence[Runnable], samples: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Runs each once and adds to its `samples`; what came out, in words.

    The order turns by one each round, so that none is always first. What failed twice in a row is
    left out.
    """
    turn = len(samples[runnables[0][0]]) % len(runnables)
    shown = []
    for label, call in [*runnables[turn:], *runnables[:turn]]:
        earlier = samples[label]
        if len(earlier) >= 2 and all("error" in sample for sample in earlier[-2:]):
            earlier.append({"error": earlier[-1]["error"]})
            continue
        sample = call()
        earlier.append(sample)
        shown.append(
            f"{label} {sample['seconds']:.3f} s"
            if "error" not in sample
            else f"{label} FAILED: {sample['error']}"
        )
    return shown


def interleave(
    runnables: Sequence[Runnable], rounds: int, say: Callable[[str], None] = print
) -> dict[str, list[dict[str, Any]]]:
    """The samples of so many rounds."""
    samples: dict[str, list[dict[str, Any]]] = {label: [] for label, _ in runnables}
    for round_ in range(rounds):
        say(f"  round {round_ + 1}/{rounds}: " + ", ".join(one_round(runnables, samples)))
    return samples


def median(samples: list[dict[str, Any]], key: str) -> float | None:
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    return statistics.median(values) if values else None


def median_ratio(
    numerator: list[dict[str, Any]], denominator: list[dict[str, Any]], key: str = "seconds"
) -> float | None:
    """The median over rounds of numerator / denominator, each pair from one round."""
    ratios = [
        n[key] / d[key]
        for n, d in zip(numerator, denominator, strict=True)
        if n.get(key) is not None and d.get(key)
    ]
    return statistics.median(ratios) if ratios else None


def data_directory(option: str | None) -> Path:
    """Where checkpoints are kept: --data, else BENCH_DATA, else below .cache."""
    return Path(option or os.environ.get("BENCH_DATA") or ROOT / ".cache" / "bench" / "data")
