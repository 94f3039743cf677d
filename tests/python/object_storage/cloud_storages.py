"""The storages of Google Cloud Storage, Azure, and plain web servers, as fixtures."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.servers import Unavailable
from tests.support.servers.azurite import (
    ACCOUNT,
    KEY,
    Azurite,
    connection_string,
    container_signature,
)
from tests.support.servers.gcs_emulator import GcsEmulator
from tests.support.servers.gcs_standin import GcsStandIn
from tests.support.servers.hub_standin import HubStandIn
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import NAMES


def start(server):
    """Enters a server; skips the test where the machine can't run it."""
    try:
        return server.__enter__()
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def azurite(authority):
    names = [*NAMES, *(f"{ACCOUNT}.blob.core.{end}" for end in ("windows.net", "chinacloudapi.cn"))]
    server = start(Azurite(authority.issue("azurite", names)))
    server.client().create_container("models")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs():
    """A stand-in that anyone may read."""
    with GcsStandIn() as server:
        server.buckets["models"] = {}
        yield server


@pytest.fixture
def private_gcs():
    with GcsStandIn(private=True) as server:
        server.buckets["models"] = {}
        yield server


@pytest.fixture(scope="session")
def gcs_emulator():
    server = start(GcsEmulator())
    yield server
    server.stop()


@pytest.fixture
def hub():
    with HubStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def cloud_proxy(azurite, gcs, www, certificate):
    upstreams = {"azurite": f"127.0.0.1:{azurite.port}", "gcs": f"127.0.0.1:{gcs.port}"}
    server = start(Nginx(www, upstreams, certificate))
    yield server
    server.stop()


@pytest.fixture
def gcs_storage(gcs, cloud_proxy, folder):
    return Storage(
        name="gcs",
        uri=f"gs://models/{folder}",
        put=lambda key, data: gcs.put("models", f"{folder}/{key}", data),
        env={"STORAGE_EMULATOR_HOST": gcs.url},
        proxied={"STORAGE_EMULATOR_HOST": cloud_proxy.proxy["gcs"]},
        nginx=cloud_proxy,
        list_match="^GET /storage/v1/b/models/o%?",
        read_match="^GET /download/storage/v1/b/models/o/",
        anonymous={},
    )


@pytest.fixture
def azure_storage(azurite, cloud_proxy, folder):
    container = azurite.client().get_container_client("models")
    proxy = f"{cloud_proxy.proxy['azurite']}/{ACCOUNT}"
    signature = container_signature("models")  # covers no headers
    return Storage(
        name="azure",
        uri=f"az://models/{folder}",
        put=lambda key, data: container.upload_blob(f"{folder}/{key}", data, overwrite=True),
        env={"AZURE_STORAGE_CONNECTION_STRING": connection_string(azurite.url)},
        proxied={"AZURE_STORAGE_CONNECTION_STRING": connection_string(proxy)},
        nginx=cloud_proxy,
        list_match="comp=list",
        read_match=f"^GET /{ACCOUNT}/models/",
        anonymous={"AZURE_STORAGE_CONNECTION_STRING": connection_string(proxy, None, signature)},
        identity=f"key of account {ACCOUNT}",
        secrets=(KEY,),
    )


@pytest.fixture
def web_storage(cloud_proxy, www, folder):
    """nginx by itself; the paths of the two ways differ, so the proxy is always between."""

    def put(key: str, data: bytes) -> None:
        target = www / folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another inode: a reader of the old file keeps it.
        part = target.with_name(target.name + ".part")
        part.write_bytes(data)
        part.rename(target)

    (www / folder).mkdir(exist_ok=True)
    # Sequential reads are for small files of servers without ranges; here all files count as big.
    env = {"RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT": "0"}
    return Storage(
        name="web",
        uri=f"{cloud_proxy.proxy['static']}/{folder}",
        put=put,
        env=env,
        proxied=env,
        nginx=cloud_proxy,
        list_match="^GET /[^ ]*/ ",
        read_match=f"^GET /{folder.replace('-', '%-')}/[^ ]+%.",
        anonymous={},
        identity="nobody",
        source="http",
        knows_folders=False,
    )


@pytest.fixture(scope="session")
def shared_hub():
    with HubStandIn(large=0) as server:
        yield server


@pytest.fixture(scope="session")
def hub_proxy(shared_hub, www, certificate):
    upstreams = {"hub": shared_hub.port, "store": shared_hub.store.port}
    server = start(
        Nginx(www, {name: f"127.0.0.1:{port}" for name, port in upstreams.items()}, certificate)
    )
    shared_hub.store_url = server.proxy["store"]
    yield server
    server.stop()


@pytest.fixture
def hf_storage(shared_hub, hub_proxy, folder):
    """A repository. What the hub redirects to is always behind the proxy."""
    repo = f"org/{folder}"
    if (repo, "main") not in shared_hub.commits:
        shared_hub.push(repo, {})
    shared_hub.private.add(repo)
    env = {"HF_TOKEN": shared_hub.token, "RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT": "0"}
    return Storage(
        name="hf",
        uri=f"hf://{repo}",
        put=lambda key, data: shared_hub.push(repo, {key: data}),
        env={**env, "HF_ENDPOINT": shared_hub.url},
        proxied={**env, "HF_ENDPOINT": hub_proxy.proxy["hub"]},
        nginx=hub_proxy,
        list_match="^GET /api/models/",
        # Files that are not small are read from the store.
        read_match="^GET /%x+/[^ ]*[?]Signature=",
        anonymous={},
        identity="the hub's token of HF_TOKEN",
        secrets=(shared_hub.token,),
        source="hub",
        hosts=2,
        refusals=2,  # the signature of an address may have expired: the hub is asked for another
    )
