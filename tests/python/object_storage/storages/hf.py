"""The hub: its stand-in, and the store that it redirects to."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.needs import running
from tests.support.servers.hub_standin import HubStandIn
from tests.support.servers.nginx import Nginx


@pytest.fixture
def hub():
    with HubStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def shared_hub():
    with HubStandIn(large=0) as server:
        yield server


@pytest.fixture(scope="session")
def hub_proxy(shared_hub, www, certificate):
    upstreams = {"hub": shared_hub.port, "store": shared_hub.store.port}
    addresses = {name: f"127.0.0.1:{port}" for name, port in upstreams.items()}
    with running(Nginx(www, addresses, certificate)) as server:
        shared_hub.store_url = server.proxy["store"]
        yield server


@pytest.fixture
def hf_storage(shared_hub, hub_proxy, directory):
    """A repository. What the hub redirects to is always behind the proxy."""
    repo = f"org/{directory}"
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
        list_refusals=2,  # by the request for the commit, and by the list, which tells the error
        refusals=2,  # the signature of an address may have expired: the hub is asked for another
    )
