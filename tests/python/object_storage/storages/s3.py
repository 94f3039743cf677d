"""S3: Ceph, moto, and responses that a test makes up."""

from __future__ import annotations

import pytest

from tests.python.object_storage.storages import Storage
from tests.support.needs import running
from tests.support.servers.canned import Canned
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.servers.moto import Moto
from tests.support.servers.nginx import Nginx

S3_ENV = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
}


@pytest.fixture(scope="session")
def ceph(certificate):
    with running(Ceph(certificate)) as server:
        yield server


@pytest.fixture(scope="session")
def ceph_proxy(ceph, www, certificate):
    with running(Nginx(www, {"ceph": f"127.0.0.1:{ceph.port}"}, certificate)) as server:
        yield server


@pytest.fixture(scope="session")
def moto():
    with running(Moto()) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(ceph):
    # Anybody may list it, and read what is put there for anybody.
    ceph.client().create_bucket(Bucket="models", ACL="public-read")
    return "models"


@pytest.fixture
def s3_storage(ceph, ceph_proxy, bucket, directory):
    client = ceph.client()

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{directory}/{key}", Body=data, ACL="public-read")

    return Storage(
        name="s3",
        uri=f"s3://{bucket}/{directory}",
        put=put,
        env={**S3_ENV, "AWS_ENDPOINT_URL": ceph.url},
        proxied={**S3_ENV, "AWS_ENDPOINT_URL": ceph_proxy.proxy["ceph"]},
        nginx=ceph_proxy,
        list_match="list%-type",
        read_match=f"^GET /{bucket}/{directory.replace('-', '%-')}/",
        anonymous={"RUNAI_STREAMER_S3_UNSIGNED": "1"},
        identity=f"{ACCESS_KEY[:4]}...{ACCESS_KEY[-4:]}",
        secrets=(SECRET_KEY,),
        error_body=lambda code, message: {"code": code, "message": message},
    )


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
