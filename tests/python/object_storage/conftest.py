"""The storages and what their tests share; a server starts when a test first asks for it."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.python.object_storage.storages.azure import (  # noqa: F401
    azure_proxy,
    azure_storage,
    azurite,
)
from tests.python.object_storage.storages.gcs import (  # noqa: F401
    gcs,
    gcs_emulator,
    gcs_proxy,
    gcs_storage,
    private_gcs,
)
from tests.python.object_storage.storages.hf import (  # noqa: F401
    hf_storage,
    hub,
    hub_proxy,
    shared_hub,
)
from tests.python.object_storage.storages.s3 import (  # noqa: F401
    bucket,
    canned,
    ceph,
    ceph_proxy,
    moto,
    s3_storage,
)
from tests.python.object_storage.storages.web import nginx, web_storage, www  # noqa: F401
from tests.support.cuda_standin.fixtures import standin, standin_library  # noqa: F401
from tests.support.servers.tls import Authority

# The names of storages, and their schemes; `storage` is made by the fixture NAME_storage of
# storages/NAME.py.
STORAGES = {
    "s3": {"s3", "s3a"},
    "gcs": {"gs", "gcs"},
    "azure": {"az", "abfs", "abfss", "wasb", "wasbs"},
    "web": {"http", "https"},
    "hf": {"hf"},
}

_PREFIXES = ("AWS_", "RUNAI_STREAMER_", "GOOGLE_", "AZURE_", "STORAGE_", "HF_", "SSL_CERT_")
_PREFIXES += ("CLOUD_STORAGE_", "CLOUDSDK_", "GCE_METADATA_", "IDENTITY_", "XDG_CACHE_", "NETRC")
_PREFIXES += ("REQUESTS_CA_", "CURL_CA_")
_counter = itertools.count()


def pytest_generate_tests(metafunc):
    if "storage" in metafunc.fixturenames:
        metafunc.parametrize("storage", STORAGES, indirect=True)


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


@pytest.fixture
def no_aborts(use):
    """No read is aborted and asked for once more because it lags, as reads do on a busy machine:
    for tests that count requests or connections."""
    use({"RUNAI_STREAMER_ABORT_STRAGGLERS": "0"})


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("server")


@pytest.fixture
def directory(request):
    """The name of a directory for objects: of the test, or of its module where that says so by
    SHARED_DIRECTORY = True. Servers keep everything until the session ends."""
    if getattr(request.module, "SHARED_DIRECTORY", False):
        return request.module.__name__.rpartition(".")[2].replace("_", "-")
    return f"test-{next(_counter)}"


@pytest.fixture
def storage(request):
    """A directory of one storage; its proxy does not fail yet."""
    made = request.getfixturevalue(f"{request.param}_storage")
    made.nginx.clear_faults()
    yield made
    made.nginx.clear_faults()
