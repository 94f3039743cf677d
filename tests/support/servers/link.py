"""Two network namespaces and a long link between them. Needs root and /dev/net/tun."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from .compiler import build
from .process import Server, Unavailable

SOURCE = pathlib.Path(__file__).resolve().parent / "link_delay.cc"
CLIENT_ADDRESS, SERVER_ADDRESS = "10.231.0.1", "10.231.0.2"


class Link(Server):
    """Programs started with `client` in front run at one end, with `server` at the other."""

    def __init__(self, milliseconds: float = 20, gigabits: float = 10) -> None:
        """`milliseconds` is the round trip."""
        super().__init__()
        self.milliseconds, self.gigabits = milliseconds, gigabits
        self.names = [f"streamer-{end}-{os.getpid()}" for end in ("client", "server")]

    @property
    def client(self) -> list[str]:
        return ["ip", "netns", "exec", self.names[0]]

    @property
    def server(self) -> list[str]:
        return ["ip", "netns", "exec", self.names[1]]

    def start(self) -> None:
        if os.getuid() != 0 or shutil.which("ip") is None or not os.path.exists("/dev/net/tun"):
            raise Unavailable("a long link needs root, iproute2 and /dev/net/tun")
        program = build(SOURCE, "-pthread")
        for name in self.names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
            if made.returncode != 0:
                raise Unavailable(f"no network namespaces: {made.stderr.decode().strip()}")
            # Windows that fill the link.
            for limit in ("tcp_wmem", "tcp_rmem"):
                setting = f"net.ipv4.{limit}=4096 262144 67108864"
                self._quietly("ip", "netns", "exec", name, "sysctl", "-qw", setting)
            bbr = "net.ipv4.tcp_congestion_control=bbr"
            self._quietly("ip", "netns", "exec", name, "sysctl", "-qw", bbr)
        ends = [self.names[0], CLIENT_ADDRESS, self.names[1], SERVER_ADDRESS]
        self.spawn([str(program), *ends, str(self.milliseconds / 2), str(self.gigabits)])
        self.wait_until(lambda: "ready" in self.log(), "the long link")

    def stop(self) -> None:
        super().stop()
        for name in self.names:
            self._quietly("ip", "netns", "delete", name)

    @staticmethod
    def _quietly(*command: str) -> None:
        subprocess.run(command, capture_output=True, check=False)
