"""gs://, az:// and https:// next to s3://: `python -m benchmarks.clouds` (`make bench-clouds`).

nginx on loopback answers what each protocol asks for, so that all do the same work with the same
server; Azurite is compared with a raw socket reader and with the original's Azure package. All rows
together renew benchmarks/results/clouds.json, its plot and docs/benchmarks.md; single rows are only
printed.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import checkpoints, report, runner
from benchmarks.peers import PEERS, ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from benchmarks.s3 import ENV, Setup, best, cpu_ratio, raw_socket
from tests.servers.azurite import (
    ACCOUNT,
    Azurite,
    connection_string,
    container_signature,
)
from tests.servers.nginx import Nginx

# Objects of the JSON API of Google Cloud Storage are files below the root, too.
GOOGLE = r"location /download/ { rewrite ^/download/storage/v1/b/([^/]+)/o/(.*)$ /$1/$2 break; }"
ORIGINAL_CONCURRENCY = (1, 4, 8)


def _job(label: str, peer: str, scheme: str, files: list[str], env: dict[str, str]) -> Runnable:
    uris = [f"{scheme}{Path(path).parent.name}/{Path(path).name}" for path in files]
    job = Job(label, peer, "iterate", uris, files, env=env)
    return label, lambda: runner.run(job)


def protocols(setup: Setup) -> Row:
    """The request makers, signatures included, on one server."""
    with Nginx(setup.folder, locations=GOOGLE) as nginx:
        environments = {
            "s3": ("s3://", {**ENV, "AWS_ENDPOINT_URL": nginx.url}),
            "gcs": ("gs://", {"STORAGE_EMULATOR_HOST": nginx.url}),
            "azure": ("az://", {"AZURE_STORAGE_CONNECTION_STRING": connection_string(nginx.url)}),
            "https": (nginx.url + "/", {}),
        }
        runnables = [
            _job(name, "ours", scheme, setup.dense, env)
            for name, (scheme, env) in environments.items()
        ]
        title = "nginx behind each protocol"
        row = setup.run("protocols", title, setup.dense, runnables)
    for name in ("gcs", "azure", "https"):
        row.checks += [
            Check(f"{name}: speed of s3", row.faster(name, "s3"), 0.95),
            Check(f"{name}: CPU of s3", cpu_ratio(row, name, "s3"), 1.05, at_most=True),
        ]
    return row


def azurite(setup: Setup) -> Row:
    files = checkpoints.dense(setup.folder / "azurite", 1.0)
    container = Path(files[0]).parent.name
    with Azurite(memory=True) as server:
        client = server.client().create_container(container)
        for path in files:
            with open(path, "rb") as data:
                client.upload_blob(Path(path).name, data, max_concurrency=2)
        env = {"AZURE_STORAGE_CONNECTION_STRING": connection_string(server.url)}
        runnables = [_job("ours", "ours", "az://", files, env)]
        query = "?" + container_signature(container)
        for threads in (1, 2, 4):
            call = raw_socket(
                files, "127.0.0.1", server.port, threads, base=f"/{ACCOUNT}", query=query
            )
            runnables.append((f"raw socket, {threads}", call))
        if setup.peers:
            # Its SDK finds the emulator by the connection string alone.
            runnables.append(_job("original", "original-azure", "az://", files, env))
            for number in ORIGINAL_CONCURRENCY:
                more = {**env, "RUNAI_STREAMER_CONCURRENCY": str(number)}
                label = f"original, {number}"
                runnables.append(_job(label, "original-azure", "az://", files, more))
        row = setup.run("azurite", "Azurite, shared key", files, runnables)
    raws = [f"raw socket, {threads}" for threads in (1, 2, 4)]
    originals = ["original", *(f"original, {number}" for number in ORIGINAL_CONCURRENCY)]
    row.checks += [
        Check("Azurite: a raw socket reader", best(row, "ours", raws), 0.9),
        Check("Azurite: the original's best", best(row, "ours", originals), 2.0),
    ]
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {"protocols": protocols, "azurite": azurite}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clouds", description=__doc__)
    parser.add_argument("--row", action="append", metavar="PATTERN", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--gigabytes", type=float, default=2.9, help="of the dense checkpoint")
    parser.add_argument("--data", help="where checkpoints are kept")
    parser.add_argument("--alone", action="store_true", help="without the original")
    options = parser.parse_args(arguments)
    wanted = [key for key in ROWS if any(fnmatch.fnmatch(key, p) for p in (options.row or ["*"]))]
    if not wanted:
        parser.error("no such row")
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    for name in ("ours", *(() if options.alone else ("original-azure",))):
        PEERS[name].python()
    folder = runner.data_folder(options.data)
    setup = Setup(folder, options.gigabytes, options.rounds, not options.alone)
    start = time.monotonic()
    rows = [ROWS[key](setup) for key in wanted]
    report.show(rows)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.row is None and not options.alone:
        samples = Path(ROOT / "benchmarks" / "results" / "raw" / "clouds.json")
        report.save("clouds", "Google Cloud Storage, Azure, https", rows, options.rounds, samples)
        print("Written: benchmarks/results/clouds.json, clouds.png, docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
