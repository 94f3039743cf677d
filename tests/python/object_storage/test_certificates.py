"""Where the authorities' certificates are found when nothing names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.processes import python
from tests.support.servers.canned import Answer, Canned

pytestmark = pytest.mark.needs("mount namespaces")

SYSTEMS = {
    "Debian": "ssl/certs/ca-certificates.crt",
    "RHEL": "pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "older RHEL": "pki/tls/certs/ca-bundle.crt",
    "SUSE": "ssl/ca-bundle.pem",
    "Alpine": "ssl/cert.pem",
}
# In a mount namespace of its own, with another directory as /etc.
RUN = 'mount --bind "$1" /etc && shift && exec "$@"'
LIST = """
import sys
from runai_model_streamer import FileStreamer
try:
    with FileStreamer() as streamer:
        print(streamer.list_files(sys.argv[1]))
except ValueError as error:
    print(error.code)
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A copy of /etc without certificates."""
    directory = tmp_path / "etc"
    without = shutil.ignore_patterns("ssl", "pki", "ca-certificates*")
    shutil.copytree("/etc", directory, symlinks=True, ignore=without)
    return directory


def list_over_tls(etc: Path, certificate, **environment: str) -> str:
    def answer(_seen) -> Answer:
        return Answer(200, {"Content-Type": "text/html"}, b'<a href="a.bin">a.bin</a>')

    with Canned(answer, certificate) as server:
        prefix = ["unshare", "--mount", "sh", "-c", RUN, "sh", str(etc)]
        return python(LIST, f"{server.url}/", prefix=prefix, **environment)


@pytest.mark.parametrize("system", SYSTEMS)
def test_certificates_of_the_system_are_found(
    etc: Path, certificate, authority, system: str
) -> None:
    place = etc / SYSTEMS[system]
    place.parent.mkdir(parents=True)
    shutil.copy(authority.ca, place)
    assert "a.bin" in list_over_tls(etc, certificate)


def test_of_certifi_where_the_system_has_none(
    etc: Path, certificate, authority, tmp_path: Path
) -> None:
    (tmp_path / "certifi.py").write_text(f"def where(): return {str(authority.ca)!r}\n")
    assert "a.bin" in list_over_tls(etc, certificate, PYTHONPATH=str(tmp_path))
    # The system's come first.
    place = etc / SYSTEMS["Debian"]
    place.parent.mkdir(parents=True)
    place.write_text("")
    assert list_over_tls(etc, certificate, PYTHONPATH=str(tmp_path)) == "network"


def test_none_at_all_is_an_error(etc: Path, certificate, tmp_path: Path) -> None:
    (tmp_path / "certifi.py").write_text("raise ImportError('not here')\n")
    assert list_over_tls(etc, certificate, PYTHONPATH=str(tmp_path)) == "network"
