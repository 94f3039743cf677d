"""Secrets go to the origin that they belong to, and to no host that looks like it.

Every name leads to one server on loopback: those of https by way of a proxy that tunnels, those of
http by way of the server itself, as a proxy. It notes what each host was sent.
"""

from __future__ import annotations

import contextlib
import json

import pytest

from runai_model_streamer import FileStreamer, StreamerError, list_safetensors
from runai_model_streamer._credentials import azure as azure_credentials
from runai_model_streamer._credentials import gcs as gcs_credentials
from runai_model_streamer.s3_utils import S3Credentials
from tests.support.models import load
from tests.support.servers.canned import Answer, Canned, Seen
from tests.support.servers.connect_proxy import ConnectProxy

SAS = "sv=2023-01-01&sp=rl&sig=SECRETsas"
# Every secret has this in it.
MARK = "SECRET"
AZURE_HOST = "models.blob.core.windows.net"
LOOK_ALIKES = [
    "models.blob.core.attacker.test",
    "models.blob.core.windows.net.attacker.test",
    "x.models.blob.core.windows.net",
    "models.x.blob.core.windows.net",
    "modelsblob.core.windows.net",
    "blob.core.windows.net",
    "models.blob.core.windows.network",
    "models.blob.storage.azure.net.attacker.test",
    "models.z4.blob.storage.azure.net.attacker.test",
    "hub.test.attacker.test",
    "attacker.hub.test",
    "store.test.attacker.test",
]


def sent(seen: Seen) -> str:
    return f"{seen.path} {seen.headers} {seen.body!r}"


@pytest.fixture
def identity(use, monkeypatch):
    """A managed identity; azure-identity is not asked, so that the core does."""
    monkeypatch.setattr(azure_credentials, "_installed", lambda: False)
    token = {"access_token": "SECRETidentity", "expires_in": 3600}
    with Canned(lambda seen: Answer(200, {}, json.dumps(token).encode())) as server:
        use({"IDENTITY_ENDPOINT": server.url, "IDENTITY_HEADER": "header"})
        yield server


@pytest.fixture
def google(use, monkeypatch, tmp_path):
    """Credentials of a user, whose token service is on loopback."""
    monkeypatch.setattr(gcs_credentials, "_installed", lambda: False)
    token = {"access_token": "SECRETgoogle", "expires_in": 3600}
    with Canned(lambda seen: Answer(200, {}, json.dumps(token).encode())) as server:
        file = tmp_path / "google.json"
        user = {"client_id": "c", "client_secret": "s", "refresh_token": "r"}
        user |= {"type": "authorized_user", "token_uri": server.url}
        file.write_text(json.dumps(user))
        use({"GOOGLE_APPLICATION_CREDENTIALS": str(file)})
        yield server


@pytest.fixture
def world(authority, use):
    """world.seen: what all hosts were sent; world.tunnels: who was asked for."""
    names = [*LOOK_ALIKES, AZURE_HOST, "other.blob.core.windows.net", "hub.test", "store.test"]
    names += ["models-secondary.blob.core.windows.net", "evil.test"]
    handler = lambda seen: Answer(404)  # noqa: E731
    with Canned(handler, authority.issue("world", names)) as server:
        with ConnectProxy(dict.fromkeys(names, server.port)) as proxy:
            use({"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(authority.ca)})
            use({"NO_PROXY": "127.0.0.1", "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
            server.tunnels = proxy.asked
            yield server


@pytest.fixture
def plain_world(use):
    """The same for http."""
    with Canned(lambda seen: Answer(404)) as server:
        use({"http_proxy": server.url, "NO_PROXY": "127.0.0.1"})
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
        yield server


@pytest.fixture
def every_secret(use, identity, google, tmp_path):
    use({"AZURE_STORAGE_ACCOUNT_NAME": "models", "HF_TOKEN": "SECREThub"})
    use({"HF_ENDPOINT": "https://hub.test", "RUNAI_STREAMER_GCS_ENDPOINT": "https://store.test"})
    use({"AWS_ACCESS_KEY_ID": "SECRETaccess", "AWS_SECRET_ACCESS_KEY": "SECRETkey"})
    machines = ["hub.test", AZURE_HOST, "store.test", "attacker.test", "core.windows.net"]
    lines = [f"machine {name} login me password SECRETnetrc" for name in machines]
    (tmp_path / "home" / ".netrc").write_text("\n".join(lines))


def ask(path: str, credentials: S3Credentials | None = None) -> None:
    with contextlib.suppress(StreamerError):
        load(path, credentials)
    with contextlib.suppress(StreamerError):
        list_safetensors(path.rpartition("/")[0], credentials)


@pytest.mark.parametrize("secret", [{"AZURE_STORAGE_SAS_TOKEN": SAS}, {}])
@pytest.mark.parametrize("host", [*LOOK_ALIKES, f"{AZURE_HOST}:8443"])
def test_a_host_that_looks_like_the_own_one(world, every_secret, use, host, secret):
    use(secret)
    ask(f"https://{host}/c/m.safetensors")
    assert world.seen
    assert [sent(seen) for seen in world.seen if MARK in sent(seen)] == []


@pytest.mark.parametrize(
    ("host", "with_sas", "without"),
    [
        (AZURE_HOST, "SECRETsas", "SECRETidentity"),
        ("models-secondary.blob.core.windows.net", "SECRETsas", "SECRETidentity"),
        ("other.blob.core.windows.net", "SECRETidentity", "SECRETidentity"),
    ],
)
def test_hosts_of_azure_get_only_their_secrets(world, every_secret, use, host, with_sas, without):
    """A signature is for its account; the token of an identity is for every account."""
    for secret, expected in ({"AZURE_STORAGE_SAS_TOKEN": SAS}, with_sas), ({}, without):
        use({"AZURE_STORAGE_SAS_TOKEN": "", **secret})
        world.seen.clear()
        ask(f"https://{host}/c/m.safetensors")
        assert world.seen
        assert all(expected in sent(seen) for seen in world.seen)
        assert all(sent(seen).count(MARK) == 1 for seen in world.seen)


@pytest.mark.parametrize(
    "location",
    [
        "https://hub.test.attacker.test/m",
        "https://attacker.hub.test/m",
        "https://hub.test:8443/m",
        "https://hub.test@evil.test/m",
        "//evil.test/m",
        "https:\\\\evil.test/m",
        "https://evil.test#hub.test",
        "https://evil.test?https://hub.test",
    ],
)
def test_where_the_hub_sends_its_readers(world, every_secret, location):
    def answer(seen):
        if seen.headers["host"] != "hub.test":
            return Answer(404)
        if "/api/" in seen.path:
            return Answer(200, {"Link": f'<{location}>; rel="next"'}, b"[]")
        return Answer(302, {"Location": location})

    world.handler = answer
    ask("hf://org/repo/m.safetensors")
    assert any("SECREThub" in sent(seen) for seen in world.seen)
    for seen in world.seen:
        assert seen.headers["host"] == "hub.test" or MARK not in sent(seen)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.attacker.test/keys",
        "http://127.0.0.1.attacker.test/keys",
        "http://localhost.attacker.test/keys",
        "http://x.localhost/keys",
        "http://169.254.170.2.attacker.test/keys",
        "http://0177.0.0.1/keys",
        "http://2130706433/keys",
    ],
)
def test_the_token_of_a_container_stays_on_allowed_hosts(plain_world, use, uri):
    use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    use({"AWS_CONTAINER_AUTHORIZATION_TOKEN": "SECRETpod"})
    with pytest.raises(StreamerError, match="a host that is not allowed"):
        load("s3://bucket/m")
    assert not plain_world.seen


@pytest.mark.parametrize("region", ["x.attacker.test/", "evil.test#", "a.b", "evil.test:1/", "-"])
def test_a_region_is_a_label(world, use, region):
    given = S3Credentials("SECRETaccess", "SECRETkey", "SECRETsession", region_name=region)
    with pytest.raises(ValueError, match="region"):
        load("s3://bucket/m", given)
    use({"AWS_REGION": region, "RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    use({"AWS_WEB_IDENTITY_TOKEN_FILE": __file__, "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"})
    with pytest.raises(ValueError, match="region"):
        load("s3://bucket/m")
    assert not world.seen


def test_a_region_of_a_server_does_not_lead_elsewhere(world, use):
    use({"AWS_ACCESS_KEY_ID": "SECRETaccess", "AWS_SECRET_ACCESS_KEY": "SECRETkey"})
    with Canned(lambda seen: Answer(301, {"x-amz-bucket-region": "evil.test#"})) as server:
        use({"AWS_ENDPOINT_URL": server.url})
        with pytest.raises(StreamerError):
            load("s3://bucket/m")
        assert len(server.seen) == 1


@pytest.mark.parametrize("zone", ["evil.test#", "evil.test?", "evil.test:443#", "evil.test%23"])
def test_a_zone_of_a_bucket_does_not_lead_elsewhere(world, use, zone):
    given = S3Credentials("SECRETaccess", "SECRETkey", "SECRETsession", region_name="us-east-1")
    ask(f"s3://models--{zone}--x-s3/m", given)
    assert set(world.tunnels) == {"CONNECT s3.us-east-1.amazonaws.com:443 HTTP/1.1"}


PLAIN = {
    "gs": ("gs://bucket/m", {"RUNAI_STREAMER_GCS_ENDPOINT": "http://store.test"}),
    "hf": ("hf://org/repo/m", {"HF_ENDPOINT": "http://store.test", "HF_TOKEN": "SECRETt"}),
    "header": ("http://store.test/m", {"RUNAI_STREAMER_HTTP_AUTHORIZATION": "token SECRETt"}),
    "netrc": ("http://store.test/m", {}),
    "query": ("http://store.test/m?" + SAS, {}),
    "azure identity": (
        "az://c/m",
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;BlobEndpoint=http://store.test"},
    ),
    "azure signature": (
        "az://c/m",
        {
            "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;BlobEndpoint=http://store.test;"
            f"SharedAccessSignature={SAS}"
        },
    ),
    "web identity": (
        "s3://bucket/m",
        {"AWS_ENDPOINT_URL_STS": "http://store.test", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"},
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_secrets_do_not_go_over_plain_http(plain_world, identity, google, use, tmp_path, kind):
    path, settings = PLAIN[kind]
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1", **settings})
    if kind == "netrc":
        (tmp_path / "home" / ".netrc").write_text("machine store.test login me password SECRETt")
    if kind == "web identity":
        (tmp_path / "token").write_text("SECRETt")
        use({"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")})
    for call in load, lambda path: FileStreamer().list_files(path.rpartition("m")[0]):
        if kind == "query" and call is not load:
            continue
        with pytest.raises(ValueError, match="plain http") as caught:
            call(path)
        assert caught.value.code == "invalid"
        assert "RUNAI_STREAMER_ALLOW_PLAIN_TOKENS" in caught.value.hint
        assert MARK not in str(caught.value)
    assert not plain_world.seen
    use({"RUNAI_STREAMER_ALLOW_PLAIN_TOKENS": "1"})
    with pytest.raises(StreamerError):
        load(path)
    mark = "bWU6U0VDUkVUd" if kind == "netrc" else MARK  # base64 of me:SECRET
    assert any(mark in sent(seen) for seen in plain_world.seen)


@pytest.mark.parametrize("kind", ["s3", "azure key", "nobody"])
def test_signed_requests_may_go_over_plain_http(plain_world, use, kind):
    path, settings = {
        "s3": ("s3://bucket/m", {"AWS_ENDPOINT_URL": "http://store.test"}),
        "azure key": (
            "az://c/m",
            {
                "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=U0VDUkVU;"
                "BlobEndpoint=http://store.test"
            },
        ),
        "nobody": ("http://store.test/m", {}),
    }[kind]
    use({"AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "SECRETkey"})
    use(settings)
    with pytest.raises(StreamerError) as caught:
        load(path)
    assert caught.value.http_status == 404
    assert not any(MARK in sent(seen) or "U0VDUkVU" in sent(seen) for seen in plain_world.seen)
