"""gcp-storage-emulator from PyPI, in an environment of its own. It checks no credentials, knows
neither pages nor preconditions, and closes each connection."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import urllib.request

from .process import CACHE, Server, Unavailable, free_port

VERSION = "2026.7.19"


def program() -> str:
    directory = CACHE / "venv_gcs_emulator"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "gcs_emulator.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = directory / "bin" / "gcp-storage-emulator"
        if not program.exists():
            for command in (
                [sys.executable, "-m", "venv", str(directory)],
                [str(directory / "bin/pip"), "install", "-q", f"gcp-storage-emulator=={VERSION}"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise Unavailable(f"gcp-storage-emulator: {done.stderr[-500:]}")
    return str(program)


class GcsEmulator(Server):
    """Its JSON API at `url`, with an empty bucket "models"."""

    bucket = "models"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [program(), "start", "--host=127.0.0.1", f"--port={self.port}"]
        self.spawn([*command, "--in-memory", f"--default-bucket={self.bucket}"])
        self.wait_for_port(self.port, "gcp-storage-emulator")
        address = f"{self.url}/storage/v1/b/{self.bucket}"

        def ready() -> bool:
            return bool(urllib.request.urlopen(address, timeout=5).status == 200)

        self.wait_until(ready, "the bucket of gcp-storage-emulator")

    def client(self):
        """The official client."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {"api_endpoint": self.url}
        return storage.Client("test", AnonymousCredentials(), client_options=options)
