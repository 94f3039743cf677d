"""Identities that boto3 or the core find, and that end in the middle of a load."""

from __future__ import annotations

import calendar
import datetime
import hashlib
import importlib.util
import json
import time

import pytest

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._credentials import s3
from runai_model_streamer.s3_utils import S3Credentials
from tests.python.object_storage.canned_s3 import DATA as SMALL
from tests.python.object_storage.canned_s3 import error, read, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Answer, Canned

MODEL = make_model(24)
DATA = save(MODEL)
PATH = "s3://bucket/m.safetensors"
# Little by little, so that there is something left to ask for.
SLOWLY = {
    "RUNAI_STREAMER_CONCURRENCY": "1",
    "RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20),
    "RUNAI_STREAMER_MEMORY_LIMIT": str(12 << 20),
}


def iso(when: float) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.timezone.utc).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


def key_of(seen) -> str:
    return seen.headers["authorization"].split("Credential=")[1].split("/")[0]


@pytest.fixture(params=["boto3", "core"])
def resolver(request, use):
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "0" if request.param == "boto3" else "1"})
    use({"AWS_REGION": "us-east-1"})
    return request.param


def signed_at(seen) -> int:
    return calendar.timegm(time.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))


class TestExpiry:
    """A container's endpoint hands out keys that live for a few seconds."""

    @pytest.fixture
    def keys(self, use):
        handed_out: dict[str, float] = {}  # when they expire

        def answer(seen):
            assert seen.headers["authorization"] == "pod"
            key = f"ASIAEXPIRING{len(handed_out):04}"
            handed_out[key] = int(time.time()) + 5 + self.extra
            content = {"AccessKeyId": key, "SecretAccessKey": "s", "Token": f"token of {key}"}
            content["Expiration"] = iso(handed_out[key])
            return Answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

        with Canned(answer) as server:
            use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url + "/keys"})
            use({"AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod"})
            yield handed_out

    extra = 0

    def test_replaced_in_mid_stream_before_the_server_has_to_refuse(self, keys, resolver, use):
        late = []

        def answer(seen):
            key = key_of(seen)
            assert seen.headers["x-amz-security-token"] == f"token of {key}"
            if signed_at(seen) > keys[key] + 2:  # the keys may expire on the way here
                late.append(key)
                return error(400, "ExpiredToken")
            return serve(seen, DATA)

        use(SLOWLY)
        with Canned(answer) as server, SafetensorsStreamer() as streamer:
            use({"AWS_ENDPOINT_URL": server.url})
            streamer.stream_files([PATH])
            first = key_of(server.seen[0])
            tensors = streamer.get_tensors()
            found = dict([next(tensors)])
            time.sleep(max(keys[first] + 0.1 - time.time(), 0))
            found.update(tensors)
        check_same(MODEL, found)
        assert key_of(server.seen[-1]) != first
        assert not late

    def test_replaced_once_the_server_has_refused(self, keys, resolver, use, no_aborts):
        """A clock that is wrong, or keys that were withdrawn."""
        self.extra = 3600
        refused = []

        def answer(seen):
            key = key_of(seen)
            if len(server.seen) == 3:
                refused.append(key)
            if key in refused:
                return error(400, "ExpiredToken")
            return serve(seen, DATA)

        use(SLOWLY)
        with Canned(answer) as server:
            use({"AWS_ENDPOINT_URL": server.url})
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([PATH])
                check_same(MODEL, dict(streamer.get_tensors()))
        assert len(refused) == 1
        assert key_of(server.seen[-1]) not in refused


class TestChain:
    """Where credentials come from when nobody names keys."""

    @pytest.fixture(autouse=True)
    def store(self, use):
        def answer(seen):
            assert key_of(seen) == "CHAINKEY12345678"
            assert seen.headers["x-amz-security-token"] == "chain-token"
            return serve(seen)

        with Canned(answer) as server:
            use({**S3_ENV, "AWS_ENDPOINT_URL": server.url, "RUNAI_STREAMER_MAX_ATTEMPTS": "3"})
            use({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
            yield

    @pytest.fixture
    def core(self, use):
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})

    JSON = (
        b'{"AccessKeyId": "CHAINKEY12345678", "SecretAccessKey": "s", "Token": "chain-token",'
        b' "Expiration": "2099-01-01T00:00:00Z"}'
    )

    def test_the_endpoint_of_a_container_gives_credentials(self, resolver, use, tmp_path):
        def handler(seen):
            assert seen.path == "/v1/credentials"
            assert seen.headers["authorization"] == "Bearer of the pod"
            return Answer(200, {}, self.JSON)

        token = tmp_path / "token"
        # boto3 does not take what editors leave at the end.
        token.write_text("Bearer of the pod" + ("\n" if resolver == "core" else ""))
        with Canned(handler) as server:
            use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.url + "/v1/credentials"})
            use({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)})
            assert read() == SMALL

    def test_containers_are_asked_at_home_only(self, core, use):
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/credentials"})
        with pytest.raises(ValueError, match="not allowed"):
            read()

    def test_instance_metadata_gives_credentials_unless_disabled(self, resolver, use):
        def handler(seen):
            if seen.path == "/latest/api/token":
                assert seen.method == "PUT"
                assert seen.headers["x-aws-ec2-metadata-token-ttl-seconds"]
                return Answer(200, {}, b"imds-token")
            assert seen.headers["x-aws-ec2-metadata-token"] == "imds-token"
            role = "/latest/meta-data/iam/security-credentials/"
            return Answer(200, {}, self.JSON if seen.path == role + "the-role" else b"the-role\n")

        with Canned(handler) as server:
            use({"AWS_EC2_METADATA_DISABLED": "false"})
            use({"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url})
            assert read() == SMALL
            use({"AWS_EC2_METADATA_DISABLED": "true"})
            asked = len(server.seen)
            with pytest.raises(PermissionError):
                read()
            assert len(server.seen) == asked

    @pytest.mark.parametrize("by", ["environment", "profile"])
    def test_a_web_identity_is_exchanged_for_credentials(self, resolver, use, tmp_path, by):
        def handler(seen):
            assert seen.method == "POST"
            assert b"Action=AssumeRoleWithWebIdentity" in seen.body
            assert b"WebIdentityToken=jwt.of.pod" in seen.body
            assert b"RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr" in seen.body
            body = (
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                "<AccessKeyId>CHAINKEY12345678</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
                "<SessionToken>chain-token</SessionToken>"
                "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
            return Answer(200, {}, body.encode())

        token = tmp_path / "jwt"
        token.write_text("jwt.of.pod")
        role = "arn:aws:iam::1:role/r"
        if by == "environment":
            use({"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": role})
        else:
            config = tmp_path / "config"
            config.write_text(f"[default]\nrole_arn={role}\nweb_identity_token_file={token}\n")
            use({"AWS_CONFIG_FILE": str(config)})
        with Canned(handler) as server:
            use({"AWS_ENDPOINT_URL_STS": server.url})
            assert read() == SMALL

    def test_a_role_that_sts_refuses(self, resolver, use, tmp_path):
        def handler(seen):
            code = "<Code>AccessDenied</Code><Message>Not authorized</Message>"
            body = f"<ErrorResponse><Error>{code}</Error></ErrorResponse>"
            return Answer(403, {}, body.encode())

        token = tmp_path / "jwt"
        token.write_text("jwt.of.pod")
        role = "arn:aws:iam::1:role/other"
        with Canned(handler) as server:
            use({"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": role})
            use({"AWS_ENDPOINT_URL_STS": server.url})
            with pytest.raises(PermissionError, match="Not authorized") as caught:
                read()
        if resolver == "core":
            assert role in caught.value.identity
        assert "jwt.of.pod" not in str(caught.value)

    def test_what_sts_answers_is_not_shown(self, resolver, use, tmp_path):
        token = tmp_path / "jwt"
        token.write_text("jwt.of.pod")
        answer = Answer(200, {}, b'{"SecretAccessKey": "not-to-be-seen"}')
        with Canned(lambda seen: answer) as server:
            use(
                {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"}
            )
            use({"AWS_ENDPOINT_URL_STS": server.url})
            with pytest.raises(PermissionError) as caught:
                read()
        assert "not-to-be-seen" not in str(caught.value)
        assert "jwt.of.pod" not in str(caught.value)

    def test_a_profile_that_does_not_exist(self, resolver, use):
        use({"AWS_PROFILE": "nobody"})
        with pytest.raises(PermissionError, match="nobody"):
            read()


def test_boto3_exchanges_tokens_of_single_sign_on(use, tmp_path, monkeypatch):
    """The token of `aws sso login`, exchanged for keys of a role."""
    from botocore.credentials import SSOProvider

    start = "https://company.awsapps.example/start"
    cache = tmp_path / "sso"
    cache.mkdir()
    token = {"accessToken": "sso-token", "expiresAt": iso(time.time() + 3600), "startUrl": start}
    (cache / f"{hashlib.sha1(start.encode()).hexdigest()}.json").write_text(json.dumps(token))
    # botocore looks for the home directory when it is imported, which was long ago.
    monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))
    config = tmp_path / "config"
    config.write_text(
        f"[profile work]\nsso_start_url = {start}\nsso_region = eu-west-1\n"
        "sso_account_id = 123456789012\nsso_role_name = Loader\nregion = eu-west-1\n"
    )

    def portal(seen):
        assert seen.headers["x-amz-sso_bearer_token"] == "sso-token"
        assert "role_name=Loader" in seen.path
        assert "account_id=123456789012" in seen.path
        keys = {"accessKeyId": "ASIASSOKEY012345", "secretAccessKey": "s", "sessionToken": "t"}
        keys["expiration"] = int((time.time() + 3600) * 1000)
        body = json.dumps({"roleCredentials": keys}).encode()
        return Answer(200, {"Content-Type": "application/json"}, body)

    def store(seen):
        assert key_of(seen) == "ASIASSOKEY012345"
        assert seen.headers["x-amz-security-token"] == "t"
        return serve(seen, DATA) if "m.safetensors" in seen.path else error(404, "NoSuchKey")

    with Canned(portal) as sso, Canned(store) as server:
        use({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "work"})
        use({"AWS_ENDPOINT_URL": server.url, "AWS_ENDPOINT_URL_SSO": sso.url})
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([PATH])
            check_same(MODEL, dict(streamer.get_tensors()))
            with pytest.raises(FileNotFoundError) as caught:
                streamer.stream_files(["s3://bucket/none"])
        assert caught.value.identity == "access key ASIA...2345 from boto3 (sso)"


def test_an_answer_that_repeats_the_token_is_not_shown(use, tmp_path):
    trace = tmp_path / "trace"
    token = "token-not-to-be-seen"
    with Canned(lambda seen: error(400, "InvalidToken", f"<Token-0>{token}</Token-0>")) as server:
        use({**S3_ENV, "AWS_ENDPOINT_URL": server.url, "AWS_SESSION_TOKEN": token})
        use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})
        with pytest.raises(PermissionError, match="InvalidToken") as caught:
            read()
    assert token not in repr(caught.value) + repr(vars(caught.value))
    assert "status=400" in trace.read_text()
    assert token not in trace.read_text()


@pytest.mark.parametrize(
    "given",
    [S3Credentials("AKIALINEBREAK012\n", "s"), S3Credentials("AKIALINE", "s", "t\r\nX-Own: 1")],
)
def test_a_line_break_in_credentials_is_said(use, given):
    with Canned(serve) as server:
        use({**S3_ENV, "AWS_ENDPOINT_URL": server.url})
        with pytest.raises(PermissionError, match="line break") as caught:
            load(PATH, given)
        assert caught.value.code == "credentials"
        assert not server.seen


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (S3Credentials(access_key_id="AKIAHALF"), "secret_access_key"),
        (S3Credentials(secret_access_key="half"), "access_key_id"),
    ],
)
def test_half_of_an_identity_is_said(use, given, missing):
    with Canned(serve) as server:
        use({**S3_ENV, "AWS_ENDPOINT_URL": server.url})
        with pytest.raises(PermissionError, match=f"S3Credentials has no {missing}") as caught:
            load(PATH, given)
        assert caught.value.code == "credentials"
        assert not server.seen


class TestWithoutBoto3:
    @pytest.fixture(autouse=True)
    def not_installed(self, monkeypatch, use):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == "boto3" else find(name, *a),
        )
        use({"AWS_REGION": "us-east-1"})

    def test_keys_do_not_need_it(self, use):
        use({"AWS_ACCESS_KEY_ID": "AKIASIMPLE012345", "AWS_SECRET_ACCESS_KEY": "s"})
        with Canned(lambda seen: serve(seen, DATA)) as server:
            use({"AWS_ENDPOINT_URL": server.url})
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([PATH])
                check_same(MODEL, dict(streamer.get_tensors()))


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def boto3_says_its_name(self, monkeypatch):
        for name in ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_CREDENTIAL_EXPIRATION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT1")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setattr(s3, "_from_boto3", lambda region: ({}, 0, "boto3"))

    def test_keys_are_taken_without_boto3(self, monkeypatch):
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        values, expires_at, identity = s3.make(None)("bucket", False)
        assert values == {
            "access_key_id": "AKIAENVIRONMENT1",
            "secret_access_key": "secret",
            "session_token": "token",
        }
        assert expires_at == 0
        assert identity == "access key AKIA...ENT1 from AWS_ACCESS_KEY_ID"

    @pytest.mark.parametrize("core", ["", "1"])
    @pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"])
    def test_a_token_goes_with_the_request(self, use, name, core):
        use({name: "token", "RUNAI_STREAMER_NO_BOTO3_SESSION": core or "0"})
        tokens = set()

        def answer(seen):
            tokens.add(seen.headers.get("x-amz-security-token"))
            return serve(seen, DATA)

        with Canned(answer) as server:
            use({"AWS_ENDPOINT_URL": server.url})
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([PATH])
                check_same(MODEL, dict(streamer.get_tensors()))
        assert tokens == {"token"}

    def test_half_a_pair_is_left_to_boto3(self, monkeypatch):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert s3.make(None)("bucket", False)[2] == "boto3"

    def test_keys_that_expire_are_left_to_boto3(self, monkeypatch):
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2030-01-01T00:00:00Z")
        assert s3.make(None)("bucket", False)[2] == "boto3"
