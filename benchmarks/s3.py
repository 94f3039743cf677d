"""S3: `python -m benchmarks.s3`, or `make bench-s3`.

nginx and Ceph's gateway run on loopback, and nginx behind long links between two network namespaces
(root). Each row is one work that every loader does; see `ROWS`. All rows
together renew benchmarks/results/s3.json, its plot and docs/benchmarks.md; single rows are only
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, report, runner
from benchmarks.peers import PEERS, ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.servers.counting import CountingStore
from tests.support.servers.link import SERVER_ADDRESS, Link
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import Authority

LIMIT = 200_000_000
ORIGINAL_CONCURRENCY = (1, 2, 4, 8, 16)
LINK_CONCURRENCY = (1, 2, 4, 8, 16, 32)
SLOW_CONCURRENCY = (8, 16, 32, 64, 128)
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
ENV = {
    **KEYS,
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
}


class Setup:
    """What every row gets. Checkpoints are buckets: the directories below `directory`."""

    def __init__(self, directory: Path, gigabytes: float, rounds: int, peers: bool) -> None:
        self.directory, self.rounds, self.peers = directory, rounds, peers
        self.dense = checkpoints.dense(directory / "dense", gigabytes)
        self.small = checkpoints.small(directory / "small")

    def job(
        self,
        label: str,
        peer: str,
        files: list[str],
        endpoint: str,
        work: str = "iterate",
        env: dict[str, str] | None = None,
        concurrency: int | None = None,
        prefix: Sequence[str] = (),
        wake: Callable[[], Any] | None = None,
    ) -> Runnable:
        uris = [f"s3://{Path(path).parent.name}/{Path(path).name}" for path in files]
        every = {**ENV, "AWS_ENDPOINT_URL": endpoint, **(env or {})}
        if concurrency:
            every["RUNAI_STREAMER_CONCURRENCY"] = str(concurrency)
        job = Job(label, peer, work, uris, files, env=every, prefix=tuple(prefix), before=wake)
        return label, lambda: runner.run(job)

    def originals(
        self, files: list[str], endpoint: str, at: Sequence[int] = (), **more: Any
    ) -> list[Runnable]:
        if not self.peers:
            return []
        runnables = [self.job("original", "original-s3", files, endpoint, **more)]
        for number in at:
            label = f"original, {number}"
            runnables.append(
                self.job(label, "original-s3", files, endpoint, concurrency=number, **more)
            )
        return runnables

    def run(self, key: str, title: str, files: list[str], runnables: Sequence[Runnable]) -> Row:
        print(f"\n{key}: {title}", flush=True)
        samples = runner.interleave(runnables, self.rounds, lambda text: print(text, flush=True))
        return Row(key, title, checkpoints.total_bytes(files), samples)


def raw_socket(
    files: list[str],
    host: str,
    port: int,
    threads: int,
    prefix: Sequence[str] = (),
    base: str = "",
    query: str = "",
):
    """Reading with no library at all, from BASE/DIRECTORY/FILE with a query."""
    binary = os.environ.get("BENCH_RAW_SOCKET", str(ROOT / "build/plain/benchmarks/raw_socket"))
    chunk = 8 << 20
    paths = []
    for path in files:
        paths += [
            f"{base}/{Path(path).parent.name}/{Path(path).name}{query}",
            str(os.path.getsize(path)),
        ]

    def call() -> dict[str, Any]:
        command = [*prefix, binary, str(threads), str(chunk), host, str(port), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {"error": done.stderr.strip()}
        return {"anonymous_growth": threads * chunk, **json.loads(done.stdout)}

    return call


def waking(files: list[str], server: Nginx | CountingStore) -> Callable[[], Any]:
    """Reads one file: a server that slept while a loader was started answers slowly at first, which
    is not the loader's doing."""
    return raw_socket(files[:1], server.host, server.port, threads=2)


def after_waking(
    wake: Callable[[], Any], call: Callable[[], dict[str, Any]]
) -> Callable[[], dict[str, Any]]:
    """`call` after `wake`."""

    def both() -> dict[str, Any]:
        wake()
        return call()

    return both


def best(row: Row, label: str, others: Sequence[str]) -> float | None:
    """How many times faster `label` is than the fastest of `others`."""
    ratios = [ratio for other in others if (ratio := row.faster(label, other)) is not None]
    return min(ratios, default=None)


def cpu_ratio(row: Row, label: str, than: str) -> float | None:
    if label not in row.samples or than not in row.samples:
        return None
    return runner.median_ratio(row.samples[label], row.samples[than], "cpu_seconds")


def http(setup: Setup, key: str = "http") -> Row:
    with Nginx(setup.directory) as nginx:
        wake = waking(setup.dense, nginx)
        runnables = [
            setup.job("ours", "ours", setup.dense, nginx.url, wake=wake),
            *setup.originals(setup.dense, nginx.url, ORIGINAL_CONCURRENCY, wake=wake),
        ]
        for threads in (1, 2, 4):
            call = after_waking(wake, raw_socket(setup.dense, nginx.host, nginx.port, threads))
            runnables.append((f"raw socket, {threads}", call))
        row = setup.run(key, "plain HTTP, iterate and touch", setup.dense, runnables)
    originals = [f"original, {number}" for number in ORIGINAL_CONCURRENCY]
    raws = [f"raw socket, {threads}" for threads in (1, 2, 4)]
    row.checks += [
        Check("HTTP: the original", row.faster("ours", "original"), 5.0),
        Check("HTTP: the original's best concurrency", best(row, "ours", originals), 3.0),
        Check("HTTP: a raw socket reader", best(row, "ours", raws), 0.75),
        Check("HTTP: CPU of the original", cpu_ratio(row, "ours", "original"), 0.33, at_most=True),
    ]
    return row


def https(setup: Setup) -> Row:
    authority = Authority(ROOT / ".cache" / "bench" / "authority")
    with Nginx(setup.directory, certificate=authority.issue("server")) as nginx:
        more: dict[str, Any] = {
            "env": {"AWS_CA_BUNDLE": str(authority.ca)},
            "wake": waking(setup.dense, nginx),
        }
        runnables = [
            setup.job("ours", "ours", setup.dense, nginx.tls_url, **more),
            *setup.originals(setup.dense, nginx.tls_url, **more),
        ]
        row = setup.run("https", "HTTPS, iterate and touch", setup.dense, runnables)
    row.checks += [
        Check("HTTPS: the original", row.faster("ours", "original"), 2.0),
        Check("HTTPS: CPU of the original", cpu_ratio(row, "ours", "original"), 0.5, at_most=True),
    ]
    return row


def ceph(setup: Setup) -> Row:
    files = checkpoints.dense(setup.directory / "ceph", 1.0)
    with Ceph(megabytes=4096) as server:
        client = server.client()
        client.create_bucket(Bucket="ceph")
        for path in files:
            client.upload_file(path, "ceph", Path(path).name)

        def wake() -> None:
            client.get_object(Bucket="ceph", Key=Path(files[0]).name)["Body"].read()

        runnables = [
            setup.job("ours", "ours", files, server.url, wake=wake),
            *setup.originals(files, server.url, ORIGINAL_CONCURRENCY, wake=wake),
        ]
        row = setup.run("ceph", "Ceph RGW, signed, iterate and touch", files, runnables)
    originals = ["original", *(f"original, {number}" for number in ORIGINAL_CONCURRENCY)]
    row.checks += [Check("Ceph: the original's best", best(row, "ours", originals), 1.3)]
    return row


def link(setup: Setup) -> Row:
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Link(milliseconds=20, gigabits=10))
        nginx = stack.enter_context(Nginx(setup.directory, host=SERVER_ADDRESS, prefix=line.server))
        more: dict[str, Any] = {"prefix": line.client}
        runnables = [
            setup.job("ours", "ours", setup.dense, nginx.url, **more),
            *(
                setup.job(
                    f"ours, {number}", "ours", setup.dense, nginx.url, concurrency=number, **more
                )
                for number in LINK_CONCURRENCY
            ),
            *setup.originals(setup.dense, nginx.url, **more),
        ]
        row = setup.run("link", "20 ms and 10 Gbit/s", setup.dense, runnables)
    fixed = [f"ours, {number}" for number in LINK_CONCURRENCY]
    row.checks += [
        Check("link: the best fixed concurrency", best(row, "ours", fixed), 0.9),
        Check("link: the original", row.faster("ours", "original"), 3.0),
    ]
    return row


def _slow(
    setup: Setup, key: str, milliseconds: float, megabytes: int, first_byte: str, least: float
) -> Row:
    """Connections of a rate that the store limits, on a link of 20 Gbit/s. `first_byte`: seconds
    until a response begins, in Lua."""
    limits = f"limit_rate {megabytes}m; access_by_lua_block {{ ngx.sleep({first_byte}) }}"
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Link(milliseconds, gigabits=20))
        nginx = Nginx(setup.directory, host=SERVER_ADDRESS, prefix=line.server, locations=limits)
        stack.enter_context(nginx)
        runnables = [
            setup.job("ours", "ours", setup.dense, nginx.url, prefix=line.client),
            *(
                setup.job(
                    *(f"ours, {number}", "ours", setup.dense, nginx.url),
                    concurrency=number,
                    prefix=line.client,
                )
                for number in SLOW_CONCURRENCY
            ),
        ]
        title = f"{megabytes} MB/s per connection, {milliseconds:g} ms"
        row = setup.run(key, title, setup.dense, runnables)
    fixed = [f"ours, {number}" for number in SLOW_CONCURRENCY]
    row.checks += [Check(f"{title}: the best fixed concurrency", best(row, "ours", fixed), least)]
    return row


def store(setup: Setup) -> Row:
    """A store that gives a connection 20 MB/s, and begins a response after 20 to 40 ms."""
    return _slow(setup, "store", 4, 20, "0.02 + 0.02 * math.random()", 0.95)


def far(milliseconds: int, megabytes: int) -> Callable[[Setup], Row]:
    key = f"far-{milliseconds}-{megabytes}"
    return lambda setup: _slow(setup, key, milliseconds, megabytes, "0.005", 0.9)


def first(setup: Setup) -> Row:
    """A connection, the header, a tensor: three round trips. With little data, since TCP takes more
    of them for more."""
    milliseconds = 20
    files = checkpoints.make(setup.directory / "first", checkpoints.small_specs(4, 2048), files=1)
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Link(milliseconds, gigabits=10))
        nginx = stack.enter_context(Nginx(setup.directory, host=SERVER_ADDRESS, prefix=line.server))
        runnables = [
            setup.job("ours", "ours", files, nginx.url, prefix=line.client),
            *setup.originals(files, nginx.url, prefix=line.client),
        ]
        row = setup.run("first", "20 ms, 8 KB: until the first tensor", files, runnables)
    seconds = runner.median(row.samples["ours"], "first_seconds")
    trips = None if seconds is None else seconds * 1000 / milliseconds
    row.checks += [
        Check("first tensor: round trips of 20 ms", trips, 3.99, at_most=True, unit="trips")
    ]
    return row


def small(setup: Setup) -> Row:
    with Nginx(setup.directory) as nginx:
        more: dict[str, Any] = {"work": "keep", "wake": waking(setup.dense, nginx)}
        runnables = [
            setup.job("ours", "ours", setup.small, nginx.url, **more),
            *setup.originals(setup.small, nginx.url, **more),
        ]
        row = setup.run("small", "60,000 small tensors", setup.small, runnables)
    row.checks += [Check("small tensors: the original", row.faster("ours", "original"), 5.0)]
    return row


def memory(setup: Setup) -> Row:
    limited = {"RUNAI_STREAMER_MEMORY_LIMIT": str(LIMIT)}
    with Nginx(setup.directory) as nginx:
        wake = waking(setup.dense, nginx)
        runnables = [
            setup.job("ours", "ours", setup.dense, nginx.url, wake=wake),
            setup.job("ours, 200 MB", "ours", setup.dense, nginx.url, env=limited, wake=wake),
            *setup.originals(setup.dense, nginx.url, wake=wake),
        ]
        row = setup.run("memory", "memory, HTTP", setup.dense, runnables)
    for label, bound in (("ours", 512e6), ("ours, 200 MB", LIMIT + (64 << 20))):
        samples = row.samples[label]
        growth = max((s["anonymous_growth"] for s in samples if "error" not in s), default=None)
        row.checks += [
            Check(
                f"anonymous memory, {label}",
                None if growth is None else growth / 1e6,
                bound / 1e6,
                at_most=True,
                unit="MB",
            )
        ]
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {
    "http": http,
    "https": https,
    "ceph": ceph,
    "link": link,
    "store": store,
    **{f"far-{trip}-{rate}": far(trip, rate) for trip in (20, 60, 150) for rate in (90, 12)},
    "first": first,
    "small": small,
    "memory": memory,
}


def command(
    name: str,
    title: str,
    peer: str,
    every: dict[str, Callable[[Setup], Row]],
    description: str | None,
    arguments: list[str] | None,
) -> int:
    """The command line of a benchmark of object storage, whose results are called `name`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(every))
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--gigabytes", type=float, default=2.9, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept")
    parser.add_argument("--alone", action="store_true", help="without the original")
    options = parser.parse_args(arguments)
    wanted = [key for key in every if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    if not wanted:
        parser.error("no such row")
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    for loader in ("ours", *(() if options.alone else (peer,))):
        PEERS[loader].python()
    directory = runner.data_directory(options.data)
    setup = Setup(directory, options.gigabytes, options.rounds, not options.alone)
    start = time.monotonic()
    rows = [every[key](setup) for key in wanted]
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.row is None and not options.alone:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / f"{name}.json")
        report.save(name, title, rows, options.rounds, samples)
        print(f"Written: benchmarks/results/{name}.json, {name}.png, docs/benchmarks.md")
    return 0


def main(arguments: list[str] | None = None) -> int:
    return command("s3", "S3, CPU destination", "original-s3", ROWS, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
