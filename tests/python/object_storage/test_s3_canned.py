"""S3 as a server of canned answers: what no server at hand does."""

from __future__ import annotations

import datetime
import email.utils
import time

import pytest

from runai_model_streamer import FileStreamer, list_safetensors, pull_files
from tests.python.object_storage.canned_s3 import DATA, error, listed, read, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Answer, Seen


def region_of(seen: Seen) -> str:
    return seen.headers["authorization"].split("/")[2]


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "expected", "words"),
        [
            (403, "AccessDenied", "permission", "RUNAI_STREAMER_S3_REQUEST_PAYER"),
            (403, "AllAccessDisabled", "permission", "disabled"),
            (400, "KMS.DisabledException", "permission", "KMS"),
            (400, "KMS.NotFoundException", "permission", "encrypts"),
            (403, "InvalidObjectState", "permission", "Restore"),
            (403, "InvalidAccessKeyId", "credentials", "access key"),
            (403, "SignatureDoesNotMatch", "credentials", "secret"),
            (404, "NoSuchBucket", "not_found", "bucket"),
            (405, "MethodNotAllowed", "io", "405"),
        ],
    )
    def test_a_lasting_error_is_raised_at_the_first_attempt(
        self, canned, status, code, expected, words
    ):
        server = canned(lambda seen: error(status, code))
        with pytest.raises(ValueError, match=words) as caught:
            read()
        assert caught.value.code == expected
        assert caught.value.server_code == code
        assert caught.value.request_id == "ID42"
        assert "as told" in str(caught.value)
        assert len(server.seen) == 1

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (503, "SlowDown", "throttled"),
            (400, "RequestTimeout", "timeout"),
            (500, "InternalError", "io"),
            (400, "KMS.ThrottlingException", "throttled"),
        ],
    )
    def test_a_passing_error_is_raised_after_all_attempts(self, canned, status, code, expected):
        server = canned(lambda seen: error(status, code))
        with pytest.raises(ValueError, match="3 attempts") as caught:
            read()
        assert caught.value.code == expected
        assert len(server.seen) == 3
        assert caught.value.attempts == 3

    @pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (400, "RequestTimeout")])
    @pytest.mark.parametrize("operation", ["header", "stream", "list", "pull"])
    def test_an_error_that_passes_fails_no_operation(
        self, canned, tmp_path, status, code, operation
    ):
        """What a server says for a moment keeps no operation from its end."""
        data = save(make_model(1))
        refused = []

        def handler(seen):
            listing = "list-type" in seen.path
            meant = {"header": "=0-" in seen.headers.get("range", ""), "list": listing}
            if meant.get(operation, not listing) and len(refused) < 2:
                refused.append(seen)
                return error(status, code)
            if listing:
                return listed({"f/m.safetensors": len(data)})
            return serve(seen, data)

        canned(handler)
        uri = "s3://bucket/f/m.safetensors"
        if operation == "list":
            assert list_safetensors("s3://bucket/f") == [uri]
        elif operation == "pull":
            pull_files("s3://bucket/f", str(tmp_path))
            assert (tmp_path / "m.safetensors").read_bytes() == data
        else:
            check_same(make_model(1), load(uri))
        assert len(refused) == 2

    def test_the_requester_pays_if_the_setting_says_so(self, canned, use):
        def handler(seen):
            if seen.headers.get("x-amz-request-payer") != "requester":
                return error(403, "AccessDenied")
            return serve(seen)

        canned(handler)
        use({"RUNAI_STREAMER_S3_REQUEST_PAYER": "1"})
        assert read() == DATA


class TestTokens:
    def test_expired_tokens_are_refreshed_once(self, canned, use, tmp_path):
        """Boto3 reads the shared file anew after the server refused what it held."""
        credentials = tmp_path / "credentials"

        def write(key: str) -> None:
            credentials.write_text(
                f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\naws_session_token=t\n"
            )

        def handler(seen):
            if "OLDKEY" in seen.headers["authorization"]:
                write("NEWKEY1234567890")
                return error(400, "ExpiredToken")
            return serve(seen)

        server = canned(handler)
        use({"AWS_SHARED_CREDENTIALS_FILE": str(credentials)})
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            use({name: ""})
        write("OLDKEY1234567890")
        assert read() == DATA
        keys = [seen.headers["authorization"].split("=")[1][:6] for seen in server.seen]
        assert keys[:2] == ["OLDKEY", "NEWKEY"]
        assert "OLDKEY" not in keys[1:]

    def test_a_region_beside_it_changes_nothing(self, canned):
        """AWS tells the bucket's region in the header of many an error."""
        headers = {"x-amz-bucket-region": "us-east-1"}
        server = canned(lambda seen: error(400, "ExpiredToken", **headers))
        with pytest.raises(PermissionError, match="expired"):
            read()
        assert len(server.seen) == 2

    @pytest.mark.parametrize("operation", ["read", "list", "pull"])
    def test_an_error_when_that_does_not_help(self, canned, tmp_path, operation):
        server = canned(lambda seen: error(400, "ExpiredToken"))
        with pytest.raises(PermissionError, match="expired") as caught:
            if operation == "read":
                read()
            elif operation == "list":
                list_safetensors("s3://bucket/f")
            else:
                pull_files("s3://bucket/f", str(tmp_path))
        assert caught.value.code == "credentials"
        assert len(server.seen) == 2


class TestRegions:
    @pytest.mark.parametrize("without_boto3", ["0", "1"])
    @pytest.mark.parametrize("source", ["AWS_REGION", "AWS_DEFAULT_REGION", "profile"])
    def test_the_region_comes_from_each_setting(
        self, canned, use, monkeypatch, tmp_path, source, without_boto3
    ):
        server = canned(serve)
        monkeypatch.delenv("AWS_REGION")
        config = tmp_path / "config"
        config.write_text("[profile far]\nregion = ap-south-2\n")
        if source == "profile":
            use({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "far"})
        else:
            use({source: "ap-south-2"})
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": without_boto3})
        assert read() == DATA
        assert {region_of(seen) for seen in server.seen} == {"ap-south-2"}

    @pytest.mark.parametrize("status", [301, 400])
    def test_the_servers_word_is_followed_and_remembered(self, canned, status):
        def handler(seen):
            if region_of(seen) != "eu-south-2":
                headers = {"x-amz-bucket-region": "eu-south-2"}
                return error(status, "AuthorizationHeaderMalformed", **headers)
            return serve(seen)

        server = canned(handler)
        assert read() == DATA
        regions = [region_of(seen) for seen in server.seen]
        assert regions[0] == "us-east-1"
        assert set(regions[1:]) == {"eu-south-2"}

    def test_lists_follow_it_too(self, canned):
        def handler(seen):
            if region_of(seen) != "eu-south-2":
                return error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-south-2"})
            return listed({"f/m.safetensors": 1})

        canned(handler)
        assert list_safetensors("s3://bucket/f") == ["s3://bucket/f/m.safetensors"]

    def test_the_region_in_the_body_is_used(self, canned):
        def handler(seen):
            if region_of(seen) != "r2":
                return error(400, "AuthorizationHeaderMalformed", "<Region>r2</Region>")
            return serve(seen)

        canned(handler)
        assert read() == DATA

    def test_going_in_circles_ends(self, canned):
        def handler(seen):
            other = "b" if region_of(seen) == "a" else "a"
            return error(301, "PermanentRedirect", **{"x-amz-bucket-region": other})

        server = canned(handler)
        with pytest.raises(OSError):
            read()
        assert len(server.seen) < 10


class TestClocks:
    def test_skew_is_corrected_once(self, canned, no_aborts):
        theirs = time.time() + 3 * 3600

        def handler(seen):
            stamp = datetime.datetime.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
            sent = stamp.replace(tzinfo=datetime.timezone.utc).timestamp()
            if abs(sent - theirs) > 900:
                return Answer(
                    403,
                    {"Date": email.utils.formatdate(theirs, usegmt=True)},
                    b"<Error><Code>RequestTimeTooSkewed</Code></Error>",
                )
            return serve(seen)

        server = canned(handler)
        assert read() == DATA
        assert len(server.seen) <= 4

    def test_or_it_is_an_error(self, canned):
        now = email.utils.formatdate(time.time(), usegmt=True)
        server = canned(lambda seen: error(403, "RequestTimeTooSkewed", Date=now))
        with pytest.raises(PermissionError, match="clock"):
            read()
        assert len(server.seen) == 1


class TestExpress:
    """Directory buckets: a session per bucket, and its token in a header of its own."""

    BUCKET = "models--use1-az4--x-s3"

    def handler(self, seen):
        assert seen.path.startswith(f"/{self.BUCKET}")
        if seen.path.endswith("?session="):
            self.sessions += 1
            expires = datetime.datetime.fromtimestamp(
                time.time() + 300, datetime.timezone.utc
            ).strftime("%Y-%m-%dT%H:%M:%SZ")
            assert seen.headers["x-amz-create-session-mode"] == "ReadOnly"
            assert "/s3express/" in seen.headers["authorization"]
            assert S3_ENV["AWS_ACCESS_KEY_ID"] in seen.headers["authorization"]
            body = (
                "<CreateSessionResult><Credentials><AccessKeyId>SESSIONKEY123456</AccessKeyId>"
                "<SecretAccessKey>secret</SecretAccessKey><SessionToken>token-of-session"
                f"</SessionToken><Expiration>{expires}</Expiration></Credentials>"
                "</CreateSessionResult>"
            )
            return Answer(200, {}, body.encode())
        assert seen.headers["x-amz-s3session-token"] == "token-of-session"
        assert "SESSIONKEY123456" in seen.headers["authorization"]
        assert "/s3express/" in seen.headers["authorization"]
        assert "x-amz-security-token" not in seen.headers
        if "list-type" in seen.path:
            return listed({"d/a.bin": 3})
        return serve(seen)

    def test_reads_and_lists(self, canned):
        self.sessions = 0
        canned(self.handler)
        assert read(f"s3://{self.BUCKET}/d/key") == DATA
        assert self.sessions == 1
        with FileStreamer() as streamer:
            assert streamer.list_files(f"s3://{self.BUCKET}/d") == [
                (f"s3://{self.BUCKET}/d/a.bin", 3)
            ]

    def test_a_session_that_has_ended_is_replaced_once(self, canned):
        self.sessions = 0
        ended = []

        def handler(seen):
            if not seen.path.endswith("?session=") and not ended:
                ended.append(seen)
                return error(400, "ExpiredToken")
            return self.handler(seen)

        canned(handler)
        assert read(f"s3://{self.BUCKET}/d/key") == DATA
        assert self.sessions == 2

    def test_a_refused_session_is_an_error_that_says_so(self, canned):
        canned(lambda seen: error(403, "AccessDenied"))
        with pytest.raises(PermissionError, match="session"):
            read(f"s3://{self.BUCKET}/d/key")
