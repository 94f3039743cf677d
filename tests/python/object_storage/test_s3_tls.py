"""S3 over TLS: authorities, and certificates that are wrong in one way."""

from __future__ import annotations

import ssl

import pytest

from runai_model_streamer import SafetensorsStreamer
from tests.python.object_storage.storages import OPERATIONS
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Canned, ranged
from tests.support.servers.nginx import Nginx

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
MODEL = make_model(3)
BYTES = save(MODEL)


@pytest.fixture
def model(s3_storage, use):
    s3_storage.put("model.safetensors", BYTES)
    use(s3_storage.env)
    return f"{s3_storage.uri}/model.safetensors"


@pytest.fixture
def named(authority, tmp_path_factory, www, ceph):
    """nginx with certificates of all sorts in front of static files."""
    certificates = {
        "good": authority.issue("good"),
        "wrong-host": authority.issue("wrong-host", ["other.example.com"], []),
        "expired": authority.issue("expired", expired=True),
    }
    (www / "models").mkdir(exist_ok=True)
    (www / "models" / "tls.safetensors").write_bytes(BYTES)
    with Nginx(www, certificates=certificates) as server:
        yield server.tls_named


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle_of_either_variable_verifies_the_server(model, ceph, authority, use, variable):
    use({"AWS_ENDPOINT_URL": ceph.tls_url, variable: str(authority.ca)})
    check_same(MODEL, load(model))


def test_the_profile_names_the_ca_bundle(model, ceph, authority, use, tmp_path):
    config = tmp_path / "config"
    config.write_text(f"[default]\nca_bundle = {authority.ca}\n")
    use({"AWS_ENDPOINT_URL": ceph.tls_url, "AWS_CONFIG_FILE": str(config)})
    check_same(MODEL, load(model))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bad_certificate_fails_each_operation(named, authority, use, tmp_path, operation):
    use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca)})
    path = "s3://models/tls.safetensors"
    use({"AWS_ENDPOINT_URL": named["good"]})
    check_same(MODEL, load(path))
    for name in ("wrong-host", "expired"):
        use({"AWS_ENDPOINT_URL": named[name]})
        with pytest.raises(OSError, match="AWS_CA_BUNDLE") as caught:
            OPERATIONS[operation](path, tmp_path / "pulled")
        assert caught.value.code == "network"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unknown_authority_fails_each_operation(model, ceph, use, tmp_path, operation):
    use({"AWS_ENDPOINT_URL": ceph.tls_url})
    with pytest.raises(OSError, match="AWS_CA_BUNDLE") as caught:
        OPERATIONS[operation](model, tmp_path / "pulled")
    assert caught.value.code == "network"


def test_a_missing_bundle_is_named(model, use):
    use({"AWS_CA_BUNDLE": "/no/such/file.pem"})
    with pytest.raises(ValueError, match="AWS_CA_BUNDLE"):
        load(model)


@pytest.mark.filterwarnings("ignore:.*TLSv1_1:DeprecationWarning")
def test_tls_1_2_is_the_least(certificate, authority, use):
    use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca), "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
    with Canned(lambda seen: ranged(seen, BYTES), certificate) as server:
        use({"AWS_ENDPOINT_URL": server.url})
        server.speak_at_most(ssl.TLSVersion.TLSv1_2)
        check_same(MODEL, load("s3://models/m.safetensors"))
        server.seen.clear()
        server.speak_at_most(ssl.TLSVersion.TLSv1_1)
        with pytest.raises(OSError):
            load("s3://models/m.safetensors")
        assert not server.seen


def test_bytes_behind_a_response_are_not_of_the_next_one(certificate, authority, use):
    """They come in the same record of TLS as the last bytes of the response."""

    def answer(seen):
        answer = ranged(seen, BYTES)
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.body += b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
        return answer

    use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca), "RUNAI_STREAMER_CONCURRENCY": "1"})
    with Canned(answer, certificate) as server, SafetensorsStreamer() as streamer:
        use({"AWS_ENDPOINT_URL": server.url})
        streamer.stream_files(["s3://models/m.safetensors"])
        check_same(MODEL, dict(streamer.get_tensors()))
        assert streamer.stats().retries == 0
