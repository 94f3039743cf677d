"""Identities that profiles of AWS' tools describe: the engine finds what boto3 finds."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import urllib.parse

import pytest

from runai_model_streamer import StreamerError
from tests.python.object_storage.canned_s3 import DATA, error, read, serve
from tests.support.servers.canned import Answer, Canned

OWN, ROLE = "AKIAOWNKEY012345", "ASIAROLEKEY01234"


def key_of(seen) -> str:
    return seen.headers["authorization"].split("Credential=")[1].split("/")[0]


def later() -> str:
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def assumed(seen) -> Answer:
    """What STS answers; the key says which role it is of."""
    form = dict(urllib.parse.parse_qsl(seen.body.decode()))
    role = form["RoleArn"].rpartition("/")[2]
    key = ROLE if role == "reader" else f"ASIA{role.upper():0<12}"
    keys = (
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        f"<SessionToken>t</SessionToken><Expiration>{later()}</Expiration>"
    )
    body = (
        f"<AssumeRoleResponse><AssumeRoleResult><Credentials>{keys}</Credentials>"
        "</AssumeRoleResult></AssumeRoleResponse>"
    )
    return Answer(200, {"Content-Type": "text/xml"}, body.encode())


@pytest.fixture
def store(use):
    with Canned(serve) as server:
        use({"AWS_ENDPOINT_URL_S3": server.url, "AWS_REGION": "us-east-1"})
        yield server


@pytest.fixture
def sts(use):
    with Canned(assumed) as server:
        use({"AWS_ENDPOINT_URL_STS": server.url})
        yield server


@pytest.fixture
def profile(use, tmp_path):
    """Writes the files; the profile is `work`."""

    def write(config: str, credentials: str = "") -> None:
        (tmp_path / "config").write_text(config)
        (tmp_path / "credentials").write_text(credentials)
        use({"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "work"})
        use({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")})

    return write


@pytest.fixture(params=["boto3", "core"])
def resolver(request, use):
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "0" if request.param == "boto3" else "1"})
    return request.param


KEYS = f"aws_access_key_id = {OWN}\naws_secret_access_key = s\n"
READER = "role_arn = arn:aws:iam::1:role/reader\n"


@pytest.mark.parametrize(
    ("config", "credentials"),
    [
        (f"[profile work]\n{READER}source_profile = work\n", f"[work]\n{KEYS}"),
        (f"[profile work]\n{READER}source_profile = base\n", f"[base]\n{KEYS}"),
        (f"[profile work]\n{READER}source_profile = base\n[profile base]\n{KEYS}", ""),
        (f'[profile work]\n{READER}source_profile = a b\n[profile "a b"]\n{KEYS}', ""),
    ],
    ids=["itself", "credentials-file", "config-file", "quoted"],
)
def test_a_role_is_assumed_with_the_keys_of_its_source(
    resolver, store, sts, profile, config, credentials
):
    profile(config, credentials)
    assert read() == DATA
    assert {key_of(seen) for seen in store.seen} == {ROLE}
    assert {key_of(seen) for seen in sts.seen} == {OWN}
    assert all("/sts/aws4_request" in seen.headers["authorization"] for seen in sts.seen)


def test_keys_that_somebody_renews_are_read_again(resolver, store, profile, tmp_path):
    def refuse_the_old_ones(seen):
        if key_of(seen) != OWN:
            return serve(seen)
        keys = KEYS.replace(OWN, ROLE)
        (tmp_path / "credentials").write_text(f"[work]\n{keys}aws_session_token = new\n")
        return error(400, "ExpiredToken")

    profile("", f"[work]\n{KEYS}aws_session_token = old\n")
    store.handler = refuse_the_old_ones
    assert read() == DATA
    first, *others = (key_of(seen) for seen in store.seen)
    assert (first, set(others)) == (OWN, {ROLE})


def test_the_request_for_a_role_has_what_the_profile_says(resolver, store, sts, profile):
    more = "external_id = e&1\nduration_seconds = 1200\nrole_session_name = me\n"
    profile(f"[profile work]\n{READER}source_profile = work\n{more}{KEYS}")
    assert read() == DATA
    form = dict(urllib.parse.parse_qsl(sts.seen[0].body.decode()))
    assert form["ExternalId"] == "e&1"
    assert form["DurationSeconds"] == "1200"
    assert form["RoleSessionName"] == "me"
    assert form["RoleArn"] == "arn:aws:iam::1:role/reader"


def test_roles_are_chained(resolver, store, sts, profile):
    profile(
        f"[profile work]\n{READER}source_profile = middle\n"
        "[profile middle]\nrole_arn = arn:aws:iam::1:role/between\nsource_profile = base\n"
        f"[profile base]\n{KEYS}"
    )
    assert read() == DATA
    assert [key_of(seen) for seen in sts.seen] == [OWN, "ASIABETWEEN00000"]


def test_the_source_may_be_the_environment(store, sts, profile, use):
    """The keys of the environment come before profiles, so they are of the source's only."""
    profile(f"[profile work]\n{READER}credential_source = EcsContainer\n")
    keys = {"AccessKeyId": OWN, "SecretAccessKey": "s", "Token": "t", "Expiration": later()}
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    with Canned(lambda seen: Answer(200, {}, json.dumps(keys).encode())) as pod:
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{pod.url}/keys"})
        assert read() == DATA
    assert key_of(sts.seen[0]) == OWN


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (READER, "source_profile and credential_source"),
        (f"{READER}source_profile = none", "does not exist: none"),
        (f"{READER}source_profile = work", "leads back"),
        (f"{READER}source_profile = work\nmfa_serial = arn\n{KEYS}", "MFA"),
        (f"{READER}credential_source = Elsewhere", "Elsewhere"),
        ("credential_process = /nonexistent/tool", "/nonexistent/tool"),
        ("credential_process = /bin/false", "status 1"),
        ("credential_process = /bin/echo {}", "Version 1"),
        (
            "sso_account_id = 1\nsso_role_name = r\nsso_region = us-east-1\nsso_start_url = u",
            "sso login",
        ),
    ],
)
def test_a_profile_that_gives_nothing_is_an_error(store, sts, profile, use, config, words):
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    profile(f"[profile work]\n{config}\n")
    with pytest.raises(StreamerError, match=words) as caught:
        read()
    assert caught.value.code == "credentials"
    assert not store.seen


def test_a_program_prints_keys(resolver, store, profile, tmp_path):
    keys = {"Version": 1, "AccessKeyId": ROLE, "SecretAccessKey": "s", "SessionToken": "t"}
    keys["Expiration"] = later()
    (tmp_path / "a tool.py").write_text(f"print({json.dumps(json.dumps(keys))})")
    profile(f'[profile work]\ncredential_process = {sys.executable} "{tmp_path}/a tool.py"\n')
    assert read() == DATA
    assert {key_of(seen) for seen in store.seen} == {ROLE}
    assert store.seen[0].headers["x-amz-security-token"] == "t"


SSO = "sso_account_id = 42\nsso_role_name = reader\n"
SESSION = "sso_region = us-east-1\nsso_start_url = https://company.test/start\n"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (
            f"[profile work]\n{SSO}sso_session = company\n[sso-session company]\n{SESSION}",
            "company",
        ),
        (f"[profile work]\n{SSO}{SESSION}", "https://company.test/start"),
    ],
    ids=["session", "legacy"],
)
def test_the_token_of_a_login_is_exchanged_for_keys(store, profile, use, tmp_path, config, name):
    """Of the engine only: botocore looks for tokens where HOME was when it was imported."""
    use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    profile(config)
    cache = tmp_path / "home/.aws/sso/cache"
    cache.mkdir(parents=True)
    token = {"accessToken": "login", "expiresAt": later(), "region": "us-east-1"}
    (cache / f"{hashlib.sha1(name.encode()).hexdigest()}.json").write_text(json.dumps(token))
    keys = {"accessKeyId": ROLE, "secretAccessKey": "s", "sessionToken": "t"}
    keys["expiration"] = int(datetime.datetime.now().timestamp() + 3600) * 1000
    answer = Answer(
        200, {"Content-Type": "application/json"}, json.dumps({"roleCredentials": keys}).encode()
    )
    with Canned(lambda seen: answer) as portal:
        use({"AWS_ENDPOINT_URL_SSO": portal.url})
        assert read() == DATA
    assert {key_of(seen) for seen in store.seen} == {ROLE}
    asked = portal.seen[0]
    assert asked.headers["x-amz-sso_bearer_token"] == "login"
    assert dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(asked.path).query)) == {
        "role_name": "reader",
        "account_id": "42",
    }
