"""Plain web servers: nginx."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.needs import running
from tests.support.servers.nginx import Nginx


@pytest.fixture(scope="session")
def www(tmp_path_factory):
    """The document root of `nginx`."""
    return tmp_path_factory.mktemp("www")


@pytest.fixture(scope="session")
def nginx(www, certificate):
    """Static files, and a proxy in front of them."""
    with running(Nginx(www, certificate=certificate)) as server:
        yield server


@pytest.fixture
def web_storage(nginx, www, directory):
    """nginx by itself; the paths of the two ways differ, so the proxy is always between."""

    def put(key: str, data: bytes) -> None:
        target = www / directory / key
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another inode: a reader of the old file keeps it.
        part = target.with_name(target.name + ".part")
        part.write_bytes(data)
        part.rename(target)

    (www / directory).mkdir(exist_ok=True)
    # Sequential reads are for small files of servers without ranges; here all files count as big.
    env = {"RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT": "0"}
    return Storage(
        name="web",
        uri=f"{nginx.proxy['static']}/{directory}",
        put=put,
        env=env,
        proxied=env,
        nginx=nginx,
        list_match="^GET /[^ ?]*/[ ?]",
        read_match=f"^GET /{directory.replace('-', '%-')}/[^ ]+%.",
        anonymous={},
        identity="no credentials were sent",
        source="http",
        knows_directories=False,
    )
