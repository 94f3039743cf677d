"""gs://, az:// and https:// next to s3://: `python -m benchmarks.clouds` (`make bench-clouds`).

nginx on loopback answers what each protocol asks for, so that all do the same work with the same
server. Azurite is compared with a raw socket reader and, over TLS, with the original's package for
Azure (root). All rows together renew benchmarks/results/clouds.json, its plot and
docs/benchmarks.md; single rows are only printed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, runner
from benchmarks.peers import ROOT
from benchmarks.report import Check, Row
from benchmarks.runner import Job, Runnable
from benchmarks.s3 import ENV, Setup, after_waking, best, command, cpu_ratio, raw_socket, waking
from tests.support.servers.azurite import (
    ACCOUNT,
    KEY,
    Azurite,
    connection_string,
    container_signature,
)
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import Authority

# Objects of the JSON API of Google Cloud Storage are files below the root, too.
GOOGLE = r"location /download/ { rewrite ^/download/storage/v1/b/([^/]+)/o/(.*)$ /$1/$2 break; }"
ORIGINAL_CONCURRENCY = (1, 4, 8)
TRUST = 'mount --bind "$1" /etc/ssl/certs/ca-certificates.crt && shift && exec "$@"'


def _job(
    label: str,
    peer: str,
    scheme: str,
    files: list[str],
    env: dict[str, str],
    prefix: tuple[str, ...] = (),
    before: Callable[[], Any] | None = None,
) -> Runnable:
    uris = [f"{scheme}{Path(path).parent.name}/{Path(path).name}" for path in files]
    job = Job(label, peer, "iterate", uris, files, env=env, prefix=prefix, before=before)
    return label, lambda: runner.run(job)


def protocols(setup: Setup) -> Row:
    """The request makers, signatures included, on one server."""
    with Nginx(setup.directory, locations=GOOGLE) as nginx:
        environments = {
            "s3": ("s3://", {**ENV, "AWS_ENDPOINT_URL": nginx.url}),
            "gcs": ("gs://", {"STORAGE_EMULATOR_HOST": nginx.url}),
            "azure": ("az://", {"AZURE_STORAGE_CONNECTION_STRING": connection_string(nginx.url)}),
            "https": (nginx.url + "/", {}),
        }
        wake = waking(setup.dense, nginx)
        runnables = [
            _job(name, "ours", scheme, setup.dense, env, before=wake)
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


def _curl(server: Azurite, ca: Path, files: list[str], at_once: int) -> Runnable:
    """Reading over TLS, a connection for each file, and dropping what comes."""
    command = ["curl", "--silent", "--fail", "--cacert", str(ca)]
    command += ["--parallel", "--parallel-immediate", "--parallel-max", str(at_once)]
    directory = Path(files[0]).parent.name
    query = container_signature(directory)
    for path in files:
        url = f"{server.tls_url}/{directory}/{Path(path).name}?{query}"
        command += ["--output", "/dev/null", url]

    def call() -> dict[str, Any]:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        if done.returncode != 0:
            return {"error": f"curl ended with status {done.returncode}"}
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": seconds, "cpu_seconds": cpu, "anonymous_growth": 0}

    return f"curl, {at_once}", call


def _upload(client: Any, files: list[str]) -> None:
    container = client.create_container(Path(files[0]).parent.name)
    for path in files:
        with open(path, "rb") as data:
            container.upload_blob(Path(path).name, data, max_concurrency=2)


def _raw(server: Azurite, files: list[str], threads: int) -> Callable[[], dict[str, Any]]:
    query = "?" + container_signature(Path(files[0]).parent.name)
    return raw_socket(files, "127.0.0.1", server.port, threads, base=f"/{ACCOUNT}", query=query)


def azurite(setup: Setup) -> Row:
    files = checkpoints.dense(setup.directory / "azurite", 1.0)
    with Azurite(memory=True) as server:
        _upload(server.client(), files)
        env = {"AZURE_STORAGE_CONNECTION_STRING": connection_string(server.url)}
        wake = _raw(server, files, 2)
        runnables = [_job("ours", "ours", "az://", files, env, before=wake)]
        for threads in (1, 2, 4):
            call = after_waking(wake, _raw(server, files, threads))
            runnables.append((f"raw socket, {threads}", call))
        row = setup.run("azurite", "Azurite, shared key", files, runnables)
    raws = [f"raw socket, {threads}" for threads in (1, 2, 4)]
    row.checks += [Check("Azurite: a raw socket reader", best(row, "ours", raws), 0.9)]
    return row


def azurite_tls(setup: Setup) -> Row:
    """The original speaks TLS only, to names below the endpoint's suffix, and trusts the system's
    list of authorities only: it gets another list, in a mount namespace of its own."""
    files = checkpoints.dense(setup.directory / "azurite", 1.0)
    authority = Authority(ROOT / ".cache" / "bench" / "authority")
    with Azurite(authority.issue("azurite"), memory=True) as server:
        _upload(server.client(tls=True, ca=str(authority.ca)), files)
        env = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT_SUFFIX": f"blob.localhost:{server.tls_port}",
        }
        prefix = ("unshare", "--mount", "sh", "-c", TRUST, "sh", str(authority.ca))
        _, wake = _curl(server, authority.ca, files[:1], 1)
        runnables = [_job("ours", "ours", "az://", files, env, prefix, wake)]
        if setup.peers:
            runnables.append(_job("original", "original-azure", "az://", files, env, prefix, wake))
            for number in ORIGINAL_CONCURRENCY:
                more = {**env, "RUNAI_STREAMER_CONCURRENCY": str(number)}
                label = f"original, {number}"
                runnables.append(_job(label, "original-azure", "az://", files, more, prefix, wake))
        for at_once in (1, 2):
            label, call = _curl(server, authority.ca, files, at_once)
            runnables.append((label, after_waking(wake, call)))
        row = setup.run("azurite_tls", "Azurite over TLS, shared key", files, runnables)
    originals = ["original", *(f"original, {number}" for number in ORIGINAL_CONCURRENCY)]
    row.checks += [Check("Azurite: the original's best", best(row, "ours", originals), 2.0)]
    return row


ROWS: dict[str, Callable[[Setup], Row]] = {
    "protocols": protocols,
    "azurite": azurite,
    "azurite_tls": azurite_tls,
}


def main(arguments: list[str] | None = None) -> int:
    title = "Google Cloud Storage, Azure, https"
    return command("clouds", title, "original-azure", ROWS, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
