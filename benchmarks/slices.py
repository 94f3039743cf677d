"""Parts of tensors: bytes read, and times: `python -m benchmarks.slices`.

Every row compares two ways of getting the same tensors, in interleaved rounds of fresh processes.
Rows over a link need root: they make a network namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import cache, checkpoints
from benchmarks.dist_link import slow_link
from benchmarks.report import RESULTS, Check, machine
from benchmarks.runner import data_directory
from tests.support.servers import free_port
from tests.support.servers.counting import CountingStore

Samples = dict[str, list[dict[str, Any]]]
LINK = 200  # MB/s
_LIMIT = 384 << 20  # the automatic memory limit of objects


def ranks(work: str, files: list[str], local: list[str], count: int, env: Any, **more: Any) -> Any:
    """What all of `count` ranks together made of `work`."""
    port = free_port()
    group = {"port": port} if count > 1 and more.pop("group", True) else {}
    jobs = [
        {"work": work, "files": files, "local": local, "rank": rank, "ranks": count} | group | more
        for rank in range(count)
    ]
    return run(jobs, env)


def run(jobs: list[dict[str, Any]], env: dict[str, str]) -> dict[str, Any]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slices_rank", json.dumps(job)],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        for job in jobs
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a rank has failed: {jobs[0]['work']}")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    result = {
        "seconds": max(one["seconds"] for one in found),
        "cpu_seconds": sum(one["cpu_seconds"] for one in found),
        "memory": max(one["memory"] for one in found),
    }
    for key in ("kept", "read", "requests"):
        if key in found[0]:
            result[key] = [one[key] for one in found]
    return result


def interleaved(rounds: int, ways: dict[str, Callable[[], dict[str, Any]]]) -> Samples:
    samples: Samples = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].append(way())
    return samples


def middle(samples: list[dict[str, Any]], key: str = "seconds") -> float:
    return statistics.median(one[key] for one in samples)


def ratio(samples: Samples, ours: str, other: str, key: str = "seconds") -> float:
    """Of `ours` to `other`: the median over rounds."""
    pairs = zip(samples[ours], samples[other], strict=True)
    return statistics.median(one[key] / two[key] for one, two in pairs)


@contextlib.contextmanager
def store(files: list[str], rate: int | None) -> Iterator[tuple[CountingStore, list[str]]]:
    """The files as objects, behind a link of `rate` MB/s."""
    root = Path(files[0]).parent.parent
    with contextlib.ExitStack() as stack:
        host, prefix = "127.0.0.1", tuple[str, ...]()
        if rate is not None:
            host, prefix = stack.enter_context(slow_link(rate))
        server = stack.enter_context(CountingStore(root, host, prefix))
        yield server, server.uris(files)


class Bench:
    def __init__(self, directory: Path, rounds: int, gigabytes: float) -> None:
        self.rounds = rounds
        self.files = checkpoints.make(directory / "slices", checkpoints.llama_specs(gigabytes), 2)
        self.big = checkpoints.make(directory / "slices-dcp", checkpoints.llama_specs(1.1), 2)
        # One file, since the store of the benchmarks has no lists.
        self.one = checkpoints.make(directory / "slices-one", checkpoints.llama_specs(gigabytes), 1)
        self.results: dict[str, Any] = {}
        self.checks: list[Check] = []

    def note(self, row: str, samples: Samples, *checks: Check) -> None:
        self.results[row] = {"samples": samples, "checks": [one.line() for one in checks]}
        self.checks += checks
        print(f"{row}:", flush=True)
        for name, found in samples.items():
            kept = sum(found[0].get("kept", [0])) / 1e6
            read = sum(found[0].get("read", [0])) / 1e6
            print(
                f"  {name}: {middle(found):.3f} s, {middle(found, 'cpu_seconds'):.2f} CPU s, "
                f"kept {kept:.0f} MB, read {read:.0f} MB, memory +{found[0]['memory'] / 1e6:.0f} MB"
            )
        for one in checks:
            print(f"  {one.line()}", flush=True)

    def link(self) -> None:
        """Ranks that read their parts over a link of 200 MB/s, each for itself and shared."""
        for count in (2, 4):
            for dimension in (0, 1):
                with store(self.files, LINK) as (server, uris):
                    self._link(count, dimension, server.env(), uris)

    def _link(self, count: int, dimension: int, env: dict[str, str], uris: list[str]) -> None:
        def load(work: str, **more: Any) -> Callable[[], dict[str, Any]]:
            return lambda: ranks(work, uris, self.files, count, env, dimension=dimension, **more)

        shared = {**env, "RUNAI_STREAMER_DIST": "1"}

        def load_shared(work: str) -> Callable[[], dict[str, Any]]:
            return lambda: ranks(
                work, uris, self.files, count, shared, dimension=dimension, shared=True
            )

        samples = interleaved(
            self.rounds,
            {
                "slices": load("slices"),
                "slices, shared": load_shared("slices"),
                "whole": load("everything"),
            },
        )
        alone = samples["slices"][0]
        over = max(r / k for r, k in zip(alone["read"], alone["kept"], strict=True))
        ideal = sum(alone["read"]) / (LINK * 1e6)
        together = samples["slices, shared"][0]
        total = sum(together["read"]) / samples["whole"][0]["read"][0]
        most = 1.02 if dimension == 0 else 1.10
        time = middle(samples["slices"]) / ideal
        part = ratio(samples, "slices, shared", "whole")
        what = f"{count} ranks, dimension {dimension}"
        self.note(
            f"link, {what}",
            samples,
            Check(f"{what}: bytes read to bytes kept", over, most, True),
            Check(f"{what}: time to bytes / rate", time, 1.1, True),
            Check(f"{what}, shared: bytes from the store to the union", total, 1.0, True),
            Check(f"{what}, shared: time to whole tensors to every rank", part, 0.6, True),
        )

    def cached(self) -> None:
        """One rank of four, from the page cache."""
        for dimension, most in ((0, 0.3), (1, 0.45)):
            samples = self._local("warm", dimension, "slices", "whole", "loop")
            value = ratio(samples, "slices", "whole")
            text = f"cached, dimension {dimension}: time to whole tensors plus slicing"
            self.note(text, samples, Check(text, value, most, True))

    def safetensors(self) -> None:
        """Against get_slice() of safetensors."""
        for state in ("warm", "cold"):
            for dimension in (0, 1):
                samples = self._local(state, dimension, "slices", "safetensors_slices")
                value = ratio(samples, "safetensors_slices", "slices")
                text = f"{state}, dimension {dimension}: faster than get_slice() of safetensors"
                self.note(text, samples, Check(text, value, 1.0))

    def _local(self, state: str, dimension: int, *works: str) -> Samples:
        def load(work: str) -> Callable[[], dict[str, Any]]:
            def once() -> dict[str, Any]:
                cache.force(state, self.files)
                job = {"files": self.files, "local": self.files, "rank": 1, "ranks": 4}
                return run([{"work": work, "dimension": dimension, **job}], {})

            return once

        return interleaved(self.rounds, {work: load(work) for work in works})

    def dcp(self) -> None:
        """Against the reader of torch, a checkpoint of 1.1 GB in the page cache: whole tensors, and
        the parts of one rank of 8."""
        for count in (1, 8):

            def load(work: str, count: int = count) -> Callable[[], dict[str, Any]]:
                def once() -> dict[str, Any]:
                    cache.force("warm", self.big)
                    job = {"local": self.big, "rank": count // 2, "ranks": count}
                    return run([{"work": work, **job}], {})

                return once

            works = ("ours", "torch", "whole_files")
            samples = interleaved(self.rounds, {work: load(f"dcp_{work}") for work in works})
            text = "DCP, whole tensors" if count == 1 else f"DCP, one rank of {count}"
            of = f"{text}: faster than"
            self.note(
                text,
                samples,
                Check(f"{of} HuggingFaceStorageReader", ratio(samples, "torch", "ours"), 1),
                Check(
                    f"{of} whole files",
                    ratio(samples, "whole_files", "ours"),
                    20 if count > 1 else 1,
                ),
            )

    def fsdp(self) -> None:
        """load_model() of FSDP2, 2 ranks, from S3."""
        with store(self.one, LINK) as (server, uris):
            samples = interleaved(
                self.rounds,
                {
                    "load_model": lambda: ranks("fsdp", uris, self.one, 2, server.env()),
                    "whole": lambda: ranks("fsdp_whole", uris, self.one, 2, server.env()),
                },
            )
        ours = samples["load_model"][0]
        text = "FSDP2, 2 ranks: faster than whole tensors and distribute_tensor()"
        memory = ours["memory"] / (max(ours["kept"]) + _LIMIT)
        self.note(
            text,
            samples,
            Check(text, ratio(samples, "whole", "load_model"), 2),
            Check("FSDP2: memory of a rank to its shard and the limit", memory, 1, True),
        )

    def recipes(self) -> None:
        """Bytes at the server of the recipes of docs/guides/slices.md."""
        specs = [
            checkpoints.TensorSpec(f"model.layers.{layer}.mlp.experts.{name}", "BF16", shape)
            for layer in range(4)
            for name, shape in {"w13": (8, 2048, 1024), "w2": (8, 1024, 1024)}.items()
        ]
        specs += [checkpoints.TensorSpec("model.layers.4.eh_proj.weight", "BF16", (1024, 2048))]
        specs += [checkpoints.TensorSpec("model.embed_tokens.weight", "BF16", (32000, 1024))]
        directory = Path(self.files[0]).parent.parent / "slices-experts"
        files = checkpoints.make(directory, specs, 2)
        size = sum(spec.nbytes for spec in specs)
        experts = sum(spec.nbytes for spec in specs if ".experts." in spec.name)
        for text, more, wanted in (
            ("a rank of 4 that has its experts", {"names": ["*.experts.*"]}, experts / 4),
            (
                "a drafter of one layer and its rows of the embedding",
                {"names": ["model.layers.4.*", "model.embed_tokens.weight"]},
                (size - experts) / 4,
            ),
        ):
            with store(files, None) as (server, uris):
                sample = run(
                    [
                        {"work": "slices", "files": uris, "local": files, "rank": 1, "ranks": 4}
                        | {"dimension": 0}
                        | more
                    ],
                    server.env(),
                )
                sent = sum(count for _, _, count in server.requests())
            text = f"{text}: bytes of the server to bytes kept"
            # The headers are read, too.
            headers = 2 * (256 << 10)
            self.note(
                text, {"slices": [sample]}, Check(text, (sent - headers) / wanted, 1.02, True)
            )


ROWS = ("cached", "safetensors", "dcp", "link", "fsdp", "recipes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="all without")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=0.6)
    parser.add_argument("--data", help="directory for the checkpoints")
    options = parser.parse_args()
    bench = Bench(data_directory(options.data), options.rounds, options.gigabytes)
    for row in options.row or ROWS:
        getattr(bench, row)()
    if not options.row:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"machine": machine(), "rows": bench.results}, indent=1)
        (RESULTS / "slices.json").write_text(text + "\n")
    missed = [one for one in bench.checks if not one.passed]
    print(f"{len(bench.checks) - len(missed)} of {len(bench.checks)} checks met")


if __name__ == "__main__":
    main()
