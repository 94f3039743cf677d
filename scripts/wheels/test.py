"""Tries a wheel as its users do: `python -m scripts.wheels.test WHEEL [--chroot DIRECTORY]`.

In a clean virtual environment, also where symbols of another libcurl and OpenSSL come first, and
with --chroot (root) in a Debian that debootstrap makes there, without any -dev package: streams a
file, and the same file from Ceph over TLS. Also checks the wheel's size, its platform tag, and what
its libraries export and need.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import venv
from pathlib import Path

from scripts.wheels.check import check_contents
from scripts.wheels.chroot import make_root
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.servers.tls import Authority

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("smoke.py")


def smoke(python: list[str], script: str, environment: dict[str, str], *arguments: str) -> None:
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", **environment}
    subprocess.run([*python, script, *arguments], check=True, env=env, cwd="/", timeout=300)


# The symbols of another libcurl or OpenSSL of the process: they abort if the wheel uses them.
STRANGERS = """
#include <stdlib.h>
#define NAME(name) void name(void) { abort(); }
NAME(curl_global_init) NAME(curl_easy_init) NAME(curl_multi_init) NAME(curl_multi_perform)
NAME(SSL_connect) NAME(SSL_do_handshake) NAME(SSL_read) NAME(SSL_write)
NAME(SSL_CTX_set1_cert_store)
"""


def make_strangers(directory: Path) -> Path:
    source, library = directory / "strangers.c", directory / "strangers.so"
    source.write_text(STRANGERS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def try_chroot(
    python: str, root: Path, wheel: Path, environment: dict[str, str], *arguments: str
) -> None:
    make_root(root, "python3,python3-venv,ca-certificates", "python3")
    inside = ["chroot", str(root)]
    installed = subprocess.run(
        [*inside, "dpkg-query", "-W", "-f", "${Package}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert not re.search(r"-dev$", installed, re.M), "the chroot has -dev packages"
    (root / "tmp" / SMOKE.name).write_bytes(SMOKE.read_bytes())
    # Fetched outside, by the configuration of pip here; inside there is no network to need.
    fetch = [python, "-m", "pip", "download", "--quiet", "--dest", str(root / "tmp" / "wheels")]
    subprocess.run([*fetch, str(wheel)], check=True)
    if "SSL_CERT_FILE" in environment:
        (root / "tmp" / "ca.pem").write_bytes(Path(environment["SSL_CERT_FILE"]).read_bytes())
        environment = {**environment, "SSL_CERT_FILE": "/tmp/ca.pem"}
    if not (root / "venv").exists():
        subprocess.run([*inside, "python3", "-m", "venv", "/venv"], check=True)
    pip = [*inside, "/venv/bin/python", "-m", "pip", "install", "--quiet", "--no-index"]
    pip += ["--find-links", "/tmp/wheels"]
    subprocess.run(
        [*pip, "--force-reinstall", "--no-deps", f"/tmp/wheels/{wheel.name}"], check=True
    )
    subprocess.run([*pip, "runai-model-streamer"], check=True)  # its dependencies
    smoke([*inside, "/venv/bin/python"], f"/tmp/{SMOKE.name}", environment, *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--chroot", type=Path, help="where a Debian is made, or was made before")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        venv.create(directory / "venv", with_pip=True)
        python = str(directory / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[s3]"], check=True)
        (directory / "model").mkdir()
        smoke([python], str(SMOKE), {}, str(directory / "model"))
        authority = Authority(directory / "ca")
        with Ceph(authority.issue("ceph")) as ceph:
            client = ceph.client()
            client.create_bucket(Bucket="models")
            client.upload_file(
                str(directory / "model" / "model.safetensors"), "models", "a/model.safetensors"
            )
            environment = {
                "AWS_ENDPOINT_URL": ceph.tls_url,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "SSL_CERT_FILE": str(authority.ca),
            }
            uri = "s3://models/a/model.safetensors"
            smoke([python], str(SMOKE), environment, str(directory / "model"), uri)
            preload = {"LD_PRELOAD": str(make_strangers(directory))}
            smoke([python], str(SMOKE), environment | preload, str(directory / "model"), uri)
            if options.chroot:
                try_chroot(python, options.chroot.resolve(), wheel, environment, "/tmp", uri)
    print("the wheel works")


if __name__ == "__main__":
    main()
