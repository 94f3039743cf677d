"""Google Cloud Storage: the stand-in and the emulator."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.needs import running
from tests.support.servers.gcs_emulator import GcsEmulator
from tests.support.servers.gcs_standin import GcsStandIn
from tests.support.servers.nginx import Nginx


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
    with running(GcsEmulator()) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_proxy(gcs, www, certificate):
    with running(Nginx(www, {"gcs": f"127.0.0.1:{gcs.port}"}, certificate)) as server:
        yield server


@pytest.fixture
def gcs_storage(gcs, gcs_proxy, directory):
    return Storage(
        name="gcs",
        uri=f"gs://models/{directory}",
        put=lambda key, data: gcs.put("models", f"{directory}/{key}", data),
        env={"STORAGE_EMULATOR_HOST": gcs.url},
        proxied={"STORAGE_EMULATOR_HOST": gcs_proxy.proxy["gcs"]},
        nginx=gcs_proxy,
        list_match="^GET /storage/v1/b/models/o%?",
        read_match="^GET /download/storage/v1/b/models/o/",
        anonymous={},
        checksums=True,
    )
