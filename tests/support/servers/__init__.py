"""Servers that tests and benchmarks start for themselves, on loopback and on free ports.

Each server is a context manager that keeps its files in a temporary directory and ends only the
processes that it started. They end as well if the run of the tests is killed; that leaves
temporary directories behind, and the network namespaces of long links.

Packages that a server needs are downloaded once into a cache (`STREAMER_SERVER_CACHE`, by default
.cache/servers of the working tree) and unpacked there; nothing is installed in the system, and no
root is needed unless a server says so. Where a server can't be had, `Unavailable` says why.
"""

from .process import Server, Unavailable, free_port

__all__ = ["Server", "Unavailable", "free_port"]
