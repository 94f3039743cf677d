"""nginx that counts: static files, and who asked for how many bytes of which."""

from __future__ import annotations

import os
from pathlib import Path

from . import debian
from .process import Server, free_port


class CountingStore(Server):
    """Serves the files below `root`, as objects of S3 would be: `uris()` of bucket and key.

    Requests are not verified. `prefix` is a command to run nginx under.
    """

    def __init__(self, root: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.root, self.host, self.prefix = root, host, prefix
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def env(self) -> dict[str, str]:
        """For clients: ours and the original's."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }

    def uris(self, files: list[str]) -> list[str]:
        return [f"s3://{Path(file).relative_to(self.root)}" for file in files]

    def start(self) -> None:
        system = debian.unpack("nginx", "nginx", "libnginx-mod-http-lua")
        (self.directory / "tmp").mkdir()
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "\n".join(
            f"  {kind}_temp_path {self.directory}/tmp;"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.directory / "nginx.conf").write_text(f"""{user}
worker_processes 2;
daemon off;
pid {self.directory}/nginx.pid;
error_log {self.directory}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  default_type application/octet-stream;
  log_format line '$remote_addr $request_method $request_uri $status $body_bytes_sent';
  access_log {self.directory}/access.log line;
{temporary}
  sendfile on;
  sendfile_max_chunk 1m;
  tcp_nopush on;
  keepalive_requests 1000000;
  open_file_cache max=1000;
  server {{ listen {self.host}:{self.port} backlog=1024; root {self.root}; }}
}}
""")
        self.spawn(
            [
                *self.prefix,
                str(system / "usr/sbin/nginx"),
                *("-p", str(self.directory), "-c", str(self.directory / "nginx.conf")),
            ],
            env={"LD_LIBRARY_PATH": debian.library_path(system)},
        )
        # Written when it listens; its network may be one that this process can't reach.
        self.wait_until((self.directory / "nginx.pid").exists, "nginx")

    def requests(self) -> list[tuple[str, str, int]]:
        """(address of the client, path, bytes sent) of each request that was answered."""
        found = []
        for line in (self.directory / "access.log").read_text().splitlines():
            address, _, path, _, size = line.split()
            found.append((address, path, int(size)))
        return found

    def forget(self) -> None:
        """Empties the log of requests."""
        os.truncate(self.directory / "access.log", 0)

    def sent(self) -> int:
        """Bytes of bodies since forget(). Requests that are cut short count as far as they came."""
        return sum(size for _, _, size in self.requests())
