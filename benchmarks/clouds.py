"""gs://, az:// and https:// next to s3://: `python -m benchmarks.clouds` (`make bench-clouds`).

nginx on loopback answers what each protocol asks for, so that all do the same work with the same
server; Azurite is compared with a raw socket reader and with the original's Azure package. All rows
together renew benchmarks/results/clouds.json, its plot and docs/benchmarks.md; single rows are only
printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import checkpoints, runner
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from benchmarks.s3 import ENV, Setup, best, command, cpu_ratio, raw_socket
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
    title = "Google Cloud Storage, Azure, https"
    return command("clouds", title, "original-azure", ROWS, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
