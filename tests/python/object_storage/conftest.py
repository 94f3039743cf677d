"""Servers and storages; each server is started once per session, when a test first asks for it."""

from __future__ import annotations

import hashlib
import itertools
import os

import pytest

from tests.python.object_storage.cloud_storages import (  # noqa: F401
    azure_storage,
    azurite,
    cloud_proxy,
    gcs,
    gcs_emulator,
    gcs_storage,
    hf_storage,
    hub,
    hub_proxy,
    private_gcs,
    shared_hub,
    web_storage,
)
from tests.python.object_storage.storages import Storage
from tests.support.cuda_standin.fixtures import standin, standin_library  # noqa: F401
from tests.support.servers import Unavailable
from tests.support.servers.canned import Canned
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.servers.moto import Moto
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import Authority

# The names of storages; `storage` is made by the fixture NAME_storage.
STORAGES = ["s3", "gcs", "azure", "web", "hf"]

_PREFIXES = ("AWS_", "RUNAI_STREAMER_", "GOOGLE_", "AZURE_", "STORAGE_", "HF_", "SSL_CERT_")
_PREFIXES += ("CLOUD_STORAGE_", "CLOUDSDK_", "GCE_METADATA_", "IDENTITY_", "XDG_CACHE_", "NETRC")
_counter = itertools.count()
_stored: dict[tuple[str, str], bytes] = {}  # what objects hold: a digest


def pytest_generate_tests(metafunc):
    if "storage" in metafunc.fixturenames:
        metafunc.parametrize("storage", STORAGES, indirect=True)


def _start(server):
    try:
        return server.__enter__()
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No settings of the machine, and no credentials of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def use(monkeypatch):
    """use({...}) sets environment variables for the test."""

    def apply(settings: dict[str, str]) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    return apply


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("server")


@pytest.fixture(scope="session")
def ceph(certificate):
    server = _start(Ceph(certificate))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto():
    server = _start(Moto())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def www(tmp_path_factory):
    """The document root of `nginx`."""
    return tmp_path_factory.mktemp("www")


@pytest.fixture(scope="session")
def nginx(www, certificate):
    """Static files only."""
    server = _start(Nginx(www, certificate=certificate))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ceph_proxy(ceph, www, certificate):
    server = _start(Nginx(www, {"ceph": f"127.0.0.1:{ceph.port}"}, certificate))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def bucket(ceph):
    # Anybody may list it, and read what is put there for anybody.
    ceph.client().create_bucket(Bucket="models", ACL="public-read")
    return "models"


S3_ENV = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
}


@pytest.fixture
def folder(request):
    """The name of a folder for objects: of the test, or of its module where that says so by
    SHARED_FOLDER = True. Servers keep everything until the session ends."""
    if getattr(request.module, "SHARED_FOLDER", False):
        return request.module.__name__.rpartition(".")[2].replace("_", "-")
    return f"test-{next(_counter)}"


@pytest.fixture
def s3_storage(ceph, ceph_proxy, bucket, folder):
    client = ceph.client()

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{folder}/{key}", Body=data, ACL="public-read")

    return Storage(
        name="s3",
        uri=f"s3://{bucket}/{folder}",
        put=put,
        env={**S3_ENV, "AWS_ENDPOINT_URL": ceph.url},
        proxied={**S3_ENV, "AWS_ENDPOINT_URL": ceph_proxy.proxy["ceph"]},
        nginx=ceph_proxy,
        list_match="list%-type",
        read_match=f"^GET /{bucket}/{folder.replace('-', '%-')}/",
        anonymous={"RUNAI_STREAMER_S3_UNSIGNED": "1"},
        identity=f"{ACCESS_KEY[:4]}...{ACCESS_KEY[-4:]}",
        secrets=(SECRET_KEY,),
        error_body=lambda code, message: {"code": code, "message": message},
    )


@pytest.fixture
def storage(request):
    """A folder of one storage; its proxy does not fail yet."""
    made = request.getfixturevalue(f"{request.param}_storage")
    store = made.put

    def put(key: str, data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        if _stored.get((made.uri, key)) != digest:
            store(key, data)
            _stored[made.uri, key] = digest

    made.put = put
    made.nginx.clear_faults()
    yield made
    made.nginx.clear_faults()


@pytest.fixture
def canned(use):
    """canned(handler) serves S3 from now on."""
    servers = []

    def start(handler) -> Canned:
        server = Canned(handler)
        server.__enter__()
        servers.append(server)
        use({**S3_ENV, "AWS_ENDPOINT_URL": server.url, "RUNAI_STREAMER_MAX_ATTEMPTS": "3"})
        return server

    yield start
    for server in servers:
        server.__exit__()
