"""Google Cloud Storage: identities, preconditions, lists, checksums."""

from __future__ import annotations

import json
import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runai_model_streamer import (
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from runai_model_streamer._credentials import gcs as gcs_credentials
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.nginx import Nginx

pytestmark = pytest.mark.servers
MODEL = make_model(3)
EMAIL = "loader@project.iam.gserviceaccount.com"


@pytest.fixture(params=["google-auth", "core"])
def resolver(request, monkeypatch):
    """Who resolves credentials: google-auth, or the core as in C++ programs."""
    if request.param == "core":
        monkeypatch.setattr(gcs_credentials, "_installed", lambda: False)
    return request.param


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def service_account(private_gcs, key, tmp_path):
    private_gcs.accounts[EMAIL] = key.public_key()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path / "account.json"
    content = {
        "type": "service_account",
        "client_email": EMAIL,
        "private_key": pem.decode(),
        "private_key_id": 'id "with quotes"',
        "token_uri": f"{private_gcs.url}/token",
    }
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def authorized_user(private_gcs, tmp_path):
    private_gcs.refresh_tokens.add("a refresh/token+&=")
    file = tmp_path / "user.json"
    content = {
        "type": "authorized_user",
        "client_id": "id",
        "client_secret": "secret&",
        "refresh_token": "a refresh/token+&=",
        "token_uri": f"{private_gcs.url}/token",
    }
    file.write_text(json.dumps(content))
    return file


def test_official_client_accepts_the_standin(private_gcs):
    """What the stand-in does is what Google's own client expects."""
    bucket = private_gcs.client().bucket("models")
    for name in ("a/1", "a/2", "b c%+ü"):
        bucket.blob(name).upload_from_string(name.encode())
    blob = bucket.blob("b c%+ü")
    blob.reload()
    assert blob.download_as_bytes(checksum="crc32c") == "b c%+ü".encode()
    assert blob.download_as_bytes(start=2, end=4, if_generation_match=blob.generation) == b"c%+"
    names = [found.name for found in private_gcs.client().list_blobs("models", page_size=2)]
    assert names == ["a/1", "a/2", "b c%+ü"]


@pytest.mark.parametrize(
    "by", ["RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GOOGLE_APPLICATION_CREDENTIALS"]
)
def test_a_service_account_loads_and_lists(private_gcs, service_account, use, resolver, by):
    private_gcs.put("models", "m.safetensors", save(MODEL))
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url, by: str(service_account)})
    check_same(MODEL, load("gs://models/m.safetensors"))
    assert list_safetensors("gs://models") == ["gs://models/m.safetensors"]
    with pytest.raises(StreamerError) as caught:
        load("gs://models/none")
    assert caught.value.code == "not_found"
    assert EMAIL in caught.value.identity
    assert "PRIVATE" not in str(caught.value)


def test_the_chosen_credential_file_comes_first(
    private_gcs, service_account, tmp_path, use, resolver
):
    private_gcs.put("models", "m.safetensors", save(MODEL))
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})
    use({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": str(service_account)})
    use({"GOOGLE_APPLICATION_CREDENTIALS": str(wrong)})
    check_same(MODEL, load("gs://models/m.safetensors"))


def test_the_login_of_gcloud_loads(
    private_gcs, authorized_user, tmp_path, use, resolver, monkeypatch
):
    # google-auth asks Google itself, whatever the file says.
    address = "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT"
    monkeypatch.setattr(address, f"{private_gcs.url}/token")
    private_gcs.put("models", "m.safetensors", save(MODEL))
    authorized_user.rename(tmp_path / "application_default_credentials.json")
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url, "CLOUDSDK_CONFIG": str(tmp_path)})
    check_same(MODEL, load("gs://models/m.safetensors"))


def test_the_metadata_server_gives_a_token(private_gcs, tmp_path, use, resolver):
    private_gcs.put("models", "m.safetensors", save(MODEL))
    host = private_gcs.url.removeprefix("http://")
    use({"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GCE_METADATA_ROOT": host})
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url, "CLOUDSDK_CONFIG": str(tmp_path)})
    check_same(MODEL, load("gs://models/m.safetensors"))


def test_token_that_ends_in_mid_stream(private_gcs, service_account, use, resolver):
    big = make_model(24)
    private_gcs.put("models", "m.safetensors", save(big))
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url, "RUNAI_STREAMER_CONCURRENCY": "1"})
    use({"GOOGLE_APPLICATION_CREDENTIALS": str(service_account)})
    use(
        {
            "RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20),
            "RUNAI_STREAMER_MEMORY_LIMIT": str(20 << 20),
        }
    )
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["gs://models/m.safetensors"])
        private_gcs.revoke()
        check_same(big, dict(streamer.get_tensors()))
    refused = [seen for seen in private_gcs.seen if seen.path == "/token"]
    assert len(refused) >= 2


def test_a_token_is_refreshed_before_it_expires(private_gcs, service_account, use, resolver):
    private_gcs.lifetime = 30.0  # less than the time that is kept in reserve
    private_gcs.put("models", "m.safetensors", save(MODEL))
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})
    use({"GOOGLE_APPLICATION_CREDENTIALS": str(service_account)})
    check_same(MODEL, load("gs://models/m.safetensors"))


class TestWorkloadIdentity:
    """Tokens of another identity provider, exchanged by google-auth for Google's."""

    @pytest.fixture
    def account(self, private_gcs, tmp_path, use):
        """account(credential_source, **more) writes an external account's JSON and uses it."""
        private_gcs.put("models", "m.safetensors", save(MODEL))
        use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})

        def write(source, variable="RUNAI_STREAMER_GCS_CREDENTIAL_FILE", **more):
            pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p"
            content = {
                "type": "external_account",
                "audience": f"{pool}/providers/x",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{private_gcs.url}/v1/token",
                "credential_source": source,
                **more,
            }
            file = tmp_path / "external.json"
            file.write_text(json.dumps(content))
            use({variable: str(file)})

        return write

    @pytest.mark.parametrize(
        "variable", ["RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GOOGLE_APPLICATION_CREDENTIALS"]
    )
    def test_a_subject_is_read_from_a_file(self, private_gcs, account, tmp_path, use, variable):
        private_gcs.subjects.add("jwt of the pod")
        subject = tmp_path / "subject"
        subject.write_text("jwt of the pod")
        account({"file": str(subject)}, variable)
        check_same(MODEL, load("gs://models/m.safetensors"))
        subject.write_text("another")
        with pytest.raises(StreamerError, match="Not an accepted subject") as caught:
            load("gs://models/m.safetensors")
        assert caught.value.code == "credentials"

    def test_a_subject_by_url_impersonates_a_service_account(self, private_gcs, account):
        private_gcs.subjects.add("jwt by url")

        def answer(seen):
            assert seen.headers["metadata"] == "yes"
            return Answer(200, {"Content-Type": "application/json"}, b'{"value": "jwt by url"}')

        address = f"{private_gcs.url}/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
        with Canned(answer) as provider:
            form = {"type": "json", "subject_token_field_name": "value"}
            source = {"url": provider.url, "headers": {"Metadata": "yes"}, "format": form}
            account(source, service_account_impersonation_url=address)
            check_same(MODEL, load("gs://models/m.safetensors"))
            with pytest.raises(FileNotFoundError) as caught:
                load("gs://models/none")
        assert EMAIL in caught.value.identity
        assert "jwt by url" not in str(caught.value)

    def test_a_revoked_token_is_exchanged_anew(self, private_gcs, account, tmp_path, use):
        big = make_model(24)
        private_gcs.put("models", "big", save(big))
        private_gcs.subjects.add("jwt")
        (tmp_path / "subject").write_text("jwt")
        account({"file": str(tmp_path / "subject")})
        use({"RUNAI_STREAMER_CONCURRENCY": "1", "RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
        use({"RUNAI_STREAMER_MEMORY_LIMIT": str(20 << 20)})
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["gs://models/big"])
            private_gcs.revoke()
            check_same(big, dict(streamer.get_tensors()))

    def test_a_missing_google_auth_is_named(self, account, monkeypatch):
        monkeypatch.setattr(gcs_credentials, "_installed", lambda: False)
        account({"file": "/nowhere"})
        with pytest.raises(
            ImportError, match=r"google-auth: pip install 'runai-model-streamer\[gcs\]'"
        ):
            load("gs://models/m.safetensors")


@pytest.mark.parametrize("resolver", ["core"], indirect=True)
@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ("nonsense", "credentials", "no Google credentials"),
        ('{"type": "service_account", "private_key": "x"}', "credentials", "private key"),
        ('{"type": "external_account"}', "package", "runai-model-streamer[gcs]"),
    ],
)
def test_an_unusable_credential_file_is_an_error(
    private_gcs, tmp_path, use, resolver, content, code, text
):
    file = tmp_path / "file.json"
    file.write_text(content)
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})
    use({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": str(file)})
    with pytest.raises(StreamerError, match=re.escape(text)) as caught:
        load("gs://models/x")
    assert caught.value.code == code


def test_wrong_signature_is_refused_by_the_token_service(
    private_gcs, service_account, use, resolver
):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private_gcs.accounts[EMAIL] = other.public_key()
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})
    use({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": str(service_account)})
    with pytest.raises(StreamerError, match="invalid_grant") as caught:
        load("gs://models/x")
    assert caught.value.code == "credentials"


def test_no_credentials_is_an_error_that_names_the_setting(private_gcs, use, tmp_path, resolver):
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url, "CLOUDSDK_CONFIG": str(tmp_path)})
    use(
        {
            "GCE_METADATA_HOST": "127.0.0.1:1",
            "GCE_METADATA_IP": "127.0.0.1:1",
            "NO_GCE_CHECK": "true",
            "RUNAI_STREAMER_MAX_ATTEMPTS": "2",
        }
    )
    with pytest.raises(StreamerError, match="USE_ANONYMOUS") as caught:
        load("gs://models/x")
    assert caught.value.code == "credentials"


def test_anonymous_requests_carry_no_authorization(private_gcs, gcs, use):
    gcs.put("models", "public", b"12345678")
    use({"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "true"})
    use({"RUNAI_STREAMER_GCS_ENDPOINT": gcs.url})
    assert ("gs://models/public", 8) in FileStreamer().list_files("gs://models/")
    assert "authorization" not in gcs.seen[-1].headers
    use({"RUNAI_STREAMER_GCS_ENDPOINT": private_gcs.url})
    with pytest.raises(StreamerError, match="anonymous") as caught:
        load("gs://models/x")
    assert caught.value.code == "permission"
    assert caught.value.http_status == 401


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT"])
def test_the_emulator_is_reached_by_its_variable(gcs_emulator, use, variable, tmp_path):
    bucket = gcs_emulator.client().bucket("models")
    bucket.blob("t/m.safetensors").upload_from_string(save(MODEL))
    bucket.blob("t/config.json").upload_from_string(b"{}")
    use({variable: gcs_emulator.url})
    assert list_safetensors("gs://models/t") == ["gs://models/t/m.safetensors"]
    check_same(MODEL, load("gs://models/t/m.safetensors"))
    pull_files("gs://models/t", str(tmp_path / "t"), ["*.json"])
    assert (tmp_path / "t/config.json").read_bytes() == b"{}"


def test_an_object_replaced_during_the_load_is_an_error(gcs, use):
    big = make_model(24)
    gcs.put("models", "replaced", save(big))
    # The rest is not read before there is room for it.
    use({"STORAGE_EMULATOR_HOST": gcs.url, "RUNAI_STREAMER_MEMORY_LIMIT": "0"})
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["gs://models/replaced"])
        gcs.put("models", "replaced", save(big))  # the same bytes, another generation
        with pytest.raises(StreamerError) as caught:
            for _ in streamer.get_tensors():
                gcs.put("models", "replaced", save(big))
    assert caught.value.code == "changed"


@pytest.mark.parametrize("megabytes", [1, 24])
def test_a_damaged_object_fails_its_checksum(gcs, use, tmp_path, megabytes):
    name = f"damaged-{megabytes}"
    gcs.put("models", name, save(make_model(megabytes)))
    gcs.damage.add(name)
    use({"STORAGE_EMULATOR_HOST": gcs.url})
    with pytest.raises(StreamerError, match="checksum"):
        load(f"gs://models/{name}")
    gcs.put("models", f"{name}/file", b"x" * (megabytes << 20))
    gcs.damage.add(f"{name}/file")
    with pytest.raises(StreamerError, match="checksum"):
        pull_files(f"gs://models/{name}", str(tmp_path))
    assert not list(tmp_path.rglob("file*"))
    use({"RUNAI_STREAMER_VERIFY_CHECKSUMS": "0"})
    assert len(load(f"gs://models/{name}")) == 7


def test_long_lists_keep_odd_names(gcs, use, tmp_path):
    names = [f"{number:05d}" for number in range(2500)]
    names += ["sp ace+plus", "uni-ü-文", "pct%20", "a=b&c;d", "q?mark#", "a//b"]
    for name in names:
        gcs.put("models", f"odd/{name}", name.encode())
    gcs.put("models", "odd/directory/", b"")
    use({"STORAGE_EMULATOR_HOST": gcs.url})
    expected = sorted((f"gs://models/odd/{name}", len(name.encode())) for name in names)
    assert FileStreamer().list_files("gs://models/odd") == expected
    assert len(FileStreamer().list_files("gs://models/odd", is_recursive=False)) == len(names) - 1
    pull_files("gs://models/odd/", str(tmp_path), None, ["*0*", "*1*", "*2*", "*3*", "*4*"])
    for name in ("sp ace+plus", "uni-ü-文", "a=b&c;d", "q?mark#", "a//b"):
        assert (tmp_path / name).read_bytes() == name.encode()


def test_empty_and_tiny_objects_are_pulled(gcs, use, tmp_path):
    gcs.put("models", "tiny/0", b"")
    gcs.put("models", "tiny/1", b"x")
    use({"STORAGE_EMULATOR_HOST": gcs.url})
    pull_files("gs://models/tiny", str(tmp_path))
    assert (tmp_path / "0").read_bytes() == b""
    assert (tmp_path / "1").read_bytes() == b"x"


def test_the_quota_project_is_sent(gcs, use):
    gcs.put("models", "paid", b"x")
    use({"STORAGE_EMULATOR_HOST": gcs.url, "GOOGLE_CLOUD_QUOTA_PROJECT": "payer"})
    FileStreamer().list_files("gs://models/paid")
    assert gcs.seen[-1].headers["x-goog-user-project"] == "payer"


def test_hmac_keys_read_at_the_interoperability_endpoint(ceph, bucket, use):
    """Ceph stands for the XML API: it verifies the same signatures."""
    from tests.python.object_storage.storages.s3 import S3_ENV

    ceph.client().put_object(Bucket=bucket, Key="hmac/m.safetensors", Body=save(MODEL))
    use({**S3_ENV, "AWS_ENDPOINT_URL": ceph.url, "RUNAI_STREAMER_GCS_INTEROPERABILITY": "1"})
    uri = f"gs://{bucket}/hmac/m.safetensors"
    assert list_safetensors(f"gs://{bucket}/hmac") == [uri]
    check_same(MODEL, load(uri))


def test_endpoint_of_google_means_hmac_keys(use):
    use(
        {"AWS_ENDPOINT_URL": "http://storage.googleapis.com:1", "AWS_ACCESS_KEY_ID": "GOOG1EXAMPLE"}
    )
    use({"AWS_SECRET_ACCESS_KEY": "secret", "HTTP_PROXY": "http://127.0.0.1:1"})
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1", "http_proxy": "http://127.0.0.1:1"})
    with pytest.raises(StreamerError) as caught:
        load("gs://models/x")
    # It got as far as a signed request for a server that is not there.
    assert caught.value.code == "network"


def test_emulator_behind_a_server_that_checks_tokens(
    gcs_emulator, private_gcs, service_account, www, use, resolver
):
    gcs_emulator.client().bucket("models").blob("b/m.safetensors").upload_from_string(save(MODEL))
    check = """location / {
      if ($http_authorization = "") { return 403 '{"error":{"message":"Anonymous caller"}}'; }
      if ($http_authorization !~ "^Bearer token-") { return 401; }
      proxy_set_header Authorization "";
      proxy_pass http://127.0.0.1:%d;
    }"""
    with Nginx(www, locations=check % gcs_emulator.port) as nginx:
        use({"RUNAI_STREAMER_GCS_ENDPOINT": nginx.url})
        use({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": str(service_account)})
        assert list_safetensors("gs://models/b") == ["gs://models/b/m.safetensors"]
        check_same(MODEL, load("gs://models/b/m.safetensors"))
        use({"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "1"})
        with pytest.raises(StreamerError, match="Anonymous caller") as caught:
            load("gs://models/b/m.safetensors")
        assert (caught.value.code, caught.value.http_status) == ("permission", 403)
