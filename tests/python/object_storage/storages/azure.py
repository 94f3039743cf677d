"""Azure Blob Storage: Azurite."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.needs import running
from tests.support.servers.azurite import (
    ACCOUNT,
    KEY,
    Azurite,
    connection_string,
    container_signature,
)
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import NAMES


@pytest.fixture(scope="session")
def azurite(authority):
    names = [*NAMES, *(f"{ACCOUNT}.blob.core.{end}" for end in ("windows.net", "chinacloudapi.cn"))]
    with running(Azurite(authority.issue("azurite", names))) as server:
        server.client().create_container("models")
        yield server


@pytest.fixture(scope="session")
def azure_proxy(azurite, www, certificate):
    with running(Nginx(www, {"azurite": f"127.0.0.1:{azurite.port}"}, certificate)) as server:
        yield server


@pytest.fixture
def azure_storage(azurite, azure_proxy, directory):
    container = azurite.client().get_container_client("models")
    proxy = f"{azure_proxy.proxy['azurite']}/{ACCOUNT}"
    signature = container_signature("models")  # covers no headers
    return Storage(
        name="azure",
        uri=f"az://models/{directory}",
        put=lambda key, data: container.upload_blob(f"{directory}/{key}", data, overwrite=True),
        env={"AZURE_STORAGE_CONNECTION_STRING": connection_string(azurite.url)},
        proxied={"AZURE_STORAGE_CONNECTION_STRING": connection_string(proxy)},
        nginx=azure_proxy,
        list_match="comp=list",
        read_match=f"^GET /{ACCOUNT}/models/",
        anonymous={"AZURE_STORAGE_CONNECTION_STRING": connection_string(proxy, None, signature)},
        identity=f"key of account {ACCOUNT}",
        secrets=(KEY,),
    )
