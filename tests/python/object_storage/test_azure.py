"""Azure Blob Storage: signatures, identities, preconditions, lists."""

from __future__ import annotations

import base64
import random
import urllib.parse

import pytest

from runai_model_streamer import (
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from runai_model_streamer._credentials import azure as azure_credentials
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.azurite import (
    ACCOUNT,
    KEY,
    bearer_token,
    connection_string,
    container_signature,
)
from tests.support.servers.canned import Answer, Canned, ranged
from tests.support.servers.connect_proxy import ConnectProxy
from tests.support.servers.nginx import Nginx

pytestmark = pytest.mark.servers
MODEL = make_model(3)
STRING = "AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture(scope="session")
def stored(azurite, authority):
    """A model in both stores of Azurite."""
    for client in (azurite.client(), azurite.client(tls=True, ca=str(authority.ca))):
        if not client.get_container_client("models").exists():
            client.create_container("models")
        client.get_blob_client("models", "t/m.safetensors").upload_blob(save(MODEL), overwrite=True)
    return "az://models/t/m.safetensors"


def official_signature(seen, account, key, url):
    """What azure-storage-blob would have signed."""
    from azure.core.pipeline import PipelineContext, PipelineRequest
    from azure.core.rest import HttpRequest
    from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

    headers = {k: v for k, v in seen.headers.items() if k not in ("authorization", "host")}
    # Range has a place in the signature; the official client, whose ranges are another header,
    # knows it by this name.
    if "range" in headers:
        headers["byte_range"] = headers.pop("range")
    request = HttpRequest(seen.method, url + seen.path, headers=headers)
    pairs = [pair.partition("=") for pair in seen.path.partition("?")[2].split("&") if pair]
    request.query = {name: value for name, _, value in pairs}  # still encoded
    policy = SharedKeyCredentialPolicy(account, key)
    policy.on_request(PipelineRequest(request, PipelineContext(None)))
    return request.headers["Authorization"]


@pytest.mark.parametrize("seed", range(4))
def test_shared_key_is_that_of_the_official_client(use, seed):
    """Random accounts, keys, names, prefixes, pages and ranges; each request is compared."""
    generator = random.Random(seed)
    alphabet = "abcXYZ019 -_.~!$&'()*+,;=:@%?#[]/\\\"<>{}|^`üß文é🙂"

    def text(most):
        return "".join(generator.choice(alphabet) for _ in range(generator.randint(1, most)))

    def answer(seen):
        if "comp=list" not in seen.path:
            return Answer(404)
        more = "" if "marker=" in seen.path else f"<NextMarker>{marker}</NextMarker>"
        body = f"<EnumerationResults><Blobs/>{more}</EnumerationResults>"
        return Answer(200, {}, body.encode())

    with Canned(answer) as server:
        for _ in range(60):
            account = "".join(generator.choice("abcxyz019") for _ in range(12))
            key = base64.b64encode(generator.randbytes(64)).decode()
            marker = "".join(generator.choice("ABCabc012!/+=") for _ in range(30))
            endpoint = f"{server.url}/{account}" if generator.random() < 0.5 else server.url
            use({STRING: f"AccountName={account};AccountKey={key};BlobEndpoint={endpoint}"})
            server.seen.clear()
            names = [text(40) for _ in range(20)]
            streamer = SafetensorsStreamer()
            with pytest.raises(StreamerError):
                streamer.stream_files([f"az://container/x{name}" for name in names])
            FileStreamer().list_files(f"az://container/{text(20)}", generator.random() < 0.5)
            assert len(server.seen) >= 3
            for seen in server.seen:
                expected = official_signature(seen, account, key, server.url)
                assert seen.headers["authorization"] == expected, seen.path


def test_signature_covers_the_precondition(use):
    """Ranges after the first carry If-Match."""
    data = save(make_model(12))

    def answer(seen):
        return ranged(seen, data, '"0x1"')

    key = base64.b64encode(b"k" * 64).decode()
    with Canned(answer) as server:
        use({STRING: f"AccountName=acc;AccountKey={key};BlobEndpoint={server.url}"})
        load("az://container/m.safetensors")
        later = [seen for seen in server.seen if not seen.headers["range"].startswith("bytes=0-")]
        assert later
        for seen in later:
            assert seen.headers["if-match"] == '"0x1"'
            expected = official_signature(seen, "acc", key, server.url)
            assert seen.headers["authorization"] == expected


def test_a_shared_key_loads_lists_and_pulls(azurite, stored, use, tmp_path):
    use({STRING: connection_string(azurite.url)})
    check_same(MODEL, load(stored))
    assert list_safetensors("az://models/t/") == [stored]
    pull_files("az://models/t", str(tmp_path))
    assert (tmp_path / "m.safetensors").read_bytes() == save(MODEL)


def test_a_wrong_key_is_an_error_that_names_the_account(azurite, stored, use):
    key = base64.b64encode(b"x" * 64).decode()
    use({STRING: connection_string(azurite.url, key)})
    with pytest.raises(StreamerError, match=r"Auth[a-z]+Fail") as caught:
        load(stored)
    assert caught.value.http_status == 403
    assert f"key of account {ACCOUNT}" in caught.value.identity
    assert caught.value.request_id
    assert key not in str(caught.value)


def test_a_signature_of_a_container_reads_and_lists(azurite, stored, use, tmp_path):
    signature = container_signature("models")
    trace = tmp_path / "trace"
    use({STRING: connection_string(azurite.url, None, signature)})
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})
    check_same(MODEL, load(stored))
    assert list_safetensors("az://models/t") == [stored]
    secret = urllib.parse.parse_qs(signature)["sig"][0]
    assert urllib.parse.quote(secret, safe="") not in trace.read_text()
    assert secret not in trace.read_text()


@pytest.mark.parametrize("options", [{"seconds": -60}, {"permission": "l"}])
def test_signature_that_does_not_allow_it(azurite, stored, use, options):
    signature = container_signature("models", **options)
    use({STRING: connection_string(azurite.url, None, signature)})
    with pytest.raises(StreamerError) as caught:
        load(stored)
    assert caught.value.code in ("permission", "credentials")
    assert "sig=" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "server_code"),
    [("az://models/none", "BlobNotFound"), ("az://nothing/none", "ContainerNotFound")],
)
def test_a_missing_blob_or_container_is_not_found(azurite, stored, use, uri, server_code):
    use({STRING: connection_string(azurite.url)})
    with pytest.raises(StreamerError) as caught:
        load(uri)
    assert (caught.value.code, caught.value.server_code) == ("not_found", server_code)


def test_a_missing_directory_lists_nothing(azurite, stored, use):
    use({STRING: connection_string(azurite.url)})
    assert list_safetensors("az://models/none") == []


def test_no_account_is_an_error_that_names_the_setting(use):
    use({STRING: ""})
    with pytest.raises(StreamerError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        load("az://models/none")


@pytest.fixture(params=["azure-identity", "core"])
def managed_identity(request, monkeypatch, use):
    """A managed identity service; yields the list of tokens that it hands out."""
    tokens: list[str] = []

    def answer(seen):
        assert seen.headers.get("x-identity-header") == "header"
        assert "resource=https://storage.azure.com" in urllib.parse.unquote(seen.path)
        body = f'{{"access_token":"{tokens[0]}","expires_on":"4102444800","token_type":"Bearer"}}'
        if len(tokens) > 1:
            tokens.pop(0)
        return Answer(200, {"Content-Type": "application/json"}, body.encode())

    if request.param == "core":
        monkeypatch.setattr(azure_credentials, "_installed", lambda: False)
    with Canned(answer) as server:
        use({"IDENTITY_ENDPOINT": server.url + "/token", "IDENTITY_HEADER": "header"})
        yield tokens


def test_a_managed_identity_loads_and_lists(azurite, stored, managed_identity, authority, use):
    managed_identity.append(bearer_token())
    use({STRING: connection_string(azurite.tls_url, None), "SSL_CERT_FILE": str(authority.ca)})
    check_same(MODEL, load(stored))
    assert list_safetensors("az://models/t") == [stored]


def test_a_metadata_service_that_is_updated_is_asked_again(
    azurite, stored, authority, use, monkeypatch
):
    """It says 404 and 410 meanwhile."""
    monkeypatch.setattr(azure_credentials, "_installed", lambda: False)
    statuses = [404, 410, 410, 410]

    def answer(seen):
        assert seen.headers["metadata"] == "true"
        if statuses:
            return Answer(statuses.pop(0))
        return Answer(200, {}, f'{{"access_token":"{bearer_token()}","expires_in":99}}'.encode())

    with Canned(answer) as server:
        use({STRING: connection_string(azurite.tls_url, None), "SSL_CERT_FILE": str(authority.ca)})
        use({"AZURE_POD_IDENTITY_AUTHORITY_HOST": server.url})
        check_same(MODEL, load(stored))
        statuses[:] = [404] * 9  # there is none
        with pytest.raises(StreamerError):
            load(stored)
    assert len(statuses) == 6


def test_expired_bearer_token_is_replaced_once(azurite, stored, managed_identity, authority, use):
    use({STRING: connection_string(azurite.tls_url, None), "SSL_CERT_FILE": str(authority.ca)})
    managed_identity.extend([bearer_token(seconds=-60), bearer_token()])
    check_same(MODEL, load(stored))
    managed_identity[:] = [bearer_token(seconds=-60)]
    with pytest.raises(StreamerError) as caught:
        load(stored)
    assert caught.value.code in ("credentials", "permission")
    assert managed_identity[0] not in str(caught.value)


@pytest.mark.parametrize("kind", ["secret", "federated"])
def test_an_application_loads_and_its_refusal_is_quoted(
    azurite, stored, authority, certificate, use, monkeypatch, tmp_path, kind
):
    """The core's own: a client secret, and a workload identity's token."""
    monkeypatch.setattr(azure_credentials, "_installed", lambda: False)
    forms = []

    def answer(seen):
        forms.append(dict(urllib.parse.parse_qsl(seen.body.decode())))
        assert seen.path == "/tenant/oauth2/v2.0/token"
        good = {"client_secret": "s&c", "client_assertion": "assertion"}
        if not any(forms[-1].get(name) == value for name, value in good.items()):
            error = (
                b'{"error":"invalid_client","error_description":"AADSTS7000215: no.\\r\\nTrace"}'
            )
            return Answer(401, {}, error)
        body = f'{{"access_token":"{bearer_token()}","expires_in":3599}}'
        return Answer(200, {}, body.encode())

    use({STRING: connection_string(azurite.tls_url, None), "SSL_CERT_FILE": str(authority.ca)})
    use({"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client"})
    with Canned(answer, certificate) as server:
        use({"AZURE_AUTHORITY_HOST": server.url})
        token = tmp_path / "token"
        token.write_text("assertion\n")
        if kind == "secret":
            use({"AZURE_CLIENT_SECRET": "s&c"})
        else:
            use({"AZURE_FEDERATED_TOKEN_FILE": str(token)})
        check_same(MODEL, load(stored))
        assert forms[0]["scope"] == "https://storage.azure.com/.default"
        token.write_text("wrong")
        if kind == "secret":
            use({"AZURE_CLIENT_SECRET": "wrong"})
        with pytest.raises(StreamerError, match="AADSTS7000215") as caught:
            load(stored)
    assert caught.value.code == "credentials"
    assert "application client" in caught.value.identity


def test_no_credentials_is_an_error_that_names_the_extra(azurite, stored, use, monkeypatch):
    monkeypatch.setattr(azure_credentials, "_installed", lambda: False)
    use({STRING: connection_string(azurite.tls_url, None)})
    use({"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:1"})
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
    with pytest.raises(StreamerError, match=r"runai-model-streamer\[azure\]") as caught:
        load(stored)
    assert caught.value.code == "credentials"


def test_anonymous_requests_reach_public_containers_only(azurite, use):
    client = azurite.client().create_container(
        f"public{random.randrange(1 << 30)}", public_access="container"
    )
    client.upload_blob("m.safetensors", save(MODEL))
    use({STRING: connection_string(azurite.url, None)})
    use({"RUNAI_STREAMER_AZURE_USE_ANONYMOUS_CREDENTIALS": "1"})
    check_same(MODEL, load(f"az://{client.container_name}/m.safetensors"))
    with pytest.raises(StreamerError):
        load("az://models/t/m.safetensors")


def test_a_blob_replaced_during_the_load_is_an_error(azurite, use):
    big = save(make_model(60))
    blob = azurite.client().get_blob_client("models", "replaced")
    blob.upload_blob(big, overwrite=True)
    use({STRING: connection_string(azurite.url), "RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
    use({"RUNAI_STREAMER_CONCURRENCY": "1", "RUNAI_STREAMER_MEMORY_LIMIT": str(25 << 20)})
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["az://models/replaced"])
        blob.upload_blob(big, overwrite=True)
        with pytest.raises(StreamerError) as caught:
            dict(streamer.get_tensors())
    assert caught.value.code == "changed"


def test_long_lists_keep_odd_names(azurite, use, www, tmp_path):
    container = azurite.client().get_container_client("models")
    odd = ["sp ace+plus", "uni-ü-文", "pct%20", "a=b&c;d", "q?mark#", "t~il(e)'!*"]
    names = [f"{number:05d}" for number in range(250)] + odd
    for name in names:
        container.upload_blob(f"odd/{name}", name.encode(), overwrite=True)
    # Pages have 5,000 names, unless a request asks for fewer.
    smaller = """location / {
      set $page "";
      if ($arg_comp = "list") { set $page "&maxresults=100"; }
      proxy_set_header Host $http_host;
      proxy_pass http://127.0.0.1:%d$request_uri$page;
    }"""
    trace = tmp_path / "trace"
    signature = container_signature("models")  # covers no queries
    with Nginx(www, locations=smaller % azurite.port) as nginx:
        use({STRING: connection_string(f"{nginx.url}/{ACCOUNT}", None, signature)})
        use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})
        expected = sorted((f"az://models/odd/{name}", len(name.encode())) for name in names)
        assert FileStreamer().list_files("az://models/odd") == expected
        assert len(trace.read_text().splitlines()) == 3
    use({STRING: connection_string(azurite.url)})
    pull_files(
        "az://models/odd", str(tmp_path), [f"*{name[-4:]}" for name in odd if "*" not in name]
    )
    for name in odd[:5]:
        assert (tmp_path / name).read_bytes() == name.encode()


def test_empty_and_tiny_blobs(azurite, use, tmp_path):
    container = azurite.client().get_container_client("models")
    container.upload_blob("tiny/0", b"", overwrite=True)
    container.upload_blob("tiny/1", b"x", overwrite=True)
    use({STRING: connection_string(azurite.url)})
    pull_files("az://models/tiny", str(tmp_path))
    assert (tmp_path / "0").read_bytes() == b""
    assert (tmp_path / "1").read_bytes() == b"x"


def test_directories_of_hierarchical_namespaces_are_left_out(use):
    def answer(seen):
        entries = "".join(
            f"<Blob><Name>{name}</Name><Properties><ResourceType>{kind}</ResourceType>"
            f"<Content-Length>{size}</Content-Length></Properties></Blob>"
            for name, kind, size in (("d", "directory", 0), ("d/x", "file", 7))
        )
        body = f"\ufeff<?xml version='1.0'?><EnumerationResults><Blobs>{entries}</Blobs>"
        return Answer(200, {}, f"{body}<NextMarker/></EnumerationResults>".encode())

    with Canned(answer) as server:
        key = base64.b64encode(b"k").decode()
        use({STRING: f"AccountName=a;AccountKey={key};BlobEndpoint={server.url}"})
        assert FileStreamer().list_files("az://c/") == [("az://c/d/x", 7)]


def test_a_busy_service_is_throttled_with_its_message(use):
    """The XML body names the error if no header does."""
    body = (
        b"<?xml version='1.0'?><Error><Code>ServerBusy</Code><Message>Later.\nId</Message></Error>"
    )
    with Canned(lambda seen: Answer(503, {"x-ms-request-id": "ID42"}, body)) as server:
        use({STRING: f"AccountName=a;AccountKey=a2V5;BlobEndpoint={server.url}"})
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
        with pytest.raises(StreamerError, match=r"ServerBusy: Later\., request id ID42") as caught:
            load("az://c/b")
    assert (caught.value.code, caught.value.attempts) == ("throttled", 2)


def test_server_that_continues_first(use):
    """100 Continue before the answer."""

    def answer(seen):
        body = b"<EnumerationResults><Blobs/></EnumerationResults>"
        return Answer(200, {}, body, interim=b"HTTP/1.1 100 Continue\r\n\r\n")

    with Canned(answer) as server:
        key = base64.b64encode(b"k").decode()
        use({STRING: f"AccountName=a;AccountKey={key};BlobEndpoint={server.url}"})
        assert FileStreamer().list_files("az://c/") == []


@pytest.mark.parametrize("suffix", ["", "core.chinacloudapi.cn", "blob.core.chinacloudapi.cn"])
def test_an_account_is_reached_by_its_host_in_the_cloud(azurite, stored, authority, use, suffix):
    """The addresses that an account has in Azure, by way of a proxy that leads to Azurite."""
    host = f"{ACCOUNT}.blob." + (suffix.removeprefix("blob.") or "core.windows.net")
    use({"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY})
    use({"AZURE_STORAGE_ENDPOINT_SUFFIX": suffix, "SSL_CERT_FILE": str(authority.ca)})
    with ConnectProxy({host: azurite.tls_port}) as proxy:
        use({"HTTPS_PROXY": proxy.url})
        check_same(MODEL, load(stored))
        uri = f"https://{host}/models/t/m.safetensors"
        check_same(MODEL, load(uri))
        assert list_safetensors(f"https://{host}/models/t") == [uri]
        assert set(proxy.asked) == {f"CONNECT {host}:443 HTTP/1.1"}


def test_https_address_of_a_blob_is_azure(use):
    from runai_model_streamer import _native_api as native

    assert native.source_kind("https://acc.blob.core.windows.net/c/b") == "azure"
    assert native.source_kind("HTTPS://acc.BLOB.core.usgovcloudapi.net/c/b") == "azure"
    assert native.source_kind("https://acc.blob.core.windows.net/c/b?sig=x") == "http"
    assert native.source_kind("https://example.com/blob.core.windows.net") == "http"
    use({"AZURE_STORAGE_ACCOUNT_NAME": "acc", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"})
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1", "HTTPS_PROXY": "http://127.0.0.1:1"})
    with pytest.raises(StreamerError) as caught:
        load("https://acc.blob.core.windows.net/c/b")
    assert caught.value.code == "network"


@pytest.mark.parametrize(
    ("text", "host", "expected"),
    [
        ("BlobEndpoint=https://acc.blob.core.x/;SharedAccessSignature=sig=x", "acc", True),
        ("BlobEndpoint=https://acc.blob.core.x/;SharedAccessSignature=sig=x", "other", False),
        ("AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.x", "acc", True),
        ("AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.x", "other", False),
        ("AccountName=acc;AccountKey=a2V5", "acc", False),
        ("AccountName=acc", "acc", False),
    ],
)
def test_what_a_connection_string_holds_is_for_its_account(use, text, host, expected):
    """If it holds nothing for an account, azure-identity is asked."""
    from runai_model_streamer import _native_api as native

    use({"AZURE_STORAGE_CONNECTION_STRING": text})
    assert native.settings_sign("azure", f"{host}.blob.core.x/models") is expected
    assert native.settings_sign("azure", "models") is (text != "AccountName=acc")
