"""moto: an S3 server in Python, for machines that have nothing but pip. Slow; verifies no
signatures."""

from __future__ import annotations

import importlib.util
import os
import sys

from .process import Server, Unavailable, free_port


class Moto(Server):
    """At `url`. Any key is accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise Unavailable("moto[server] is not installed")
        env = {"MOTO_S3_CUSTOM_ENDPOINTS": self.url, **os.environ}
        command = "from moto.server import main; main()"
        arguments = ["-H", "127.0.0.1", "-p", str(self.port)]
        self.spawn([sys.executable, "-c", command, *arguments], env=env)
        self.wait_for_port(self.port, "moto")

    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
