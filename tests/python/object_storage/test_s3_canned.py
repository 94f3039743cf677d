"""S3 as a server of canned answers: what no server at hand does."""

from __future__ import annotations

import datetime
import email.utils
import re
import threading
import time

import pytest

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from tests.python.object_storage.conftest import S3_ENV
from tests.python.object_storage.models import check_same, make_model, save
from tests.servers.canned import Answer, Canned, Seen
from tests.servers.connect_proxy import ConnectProxy
from tests.servers.gate import Gate

pytestmark = pytest.mark.timeout(60)
DATA = bytes(range(256)) * 40


def error(status: int, code: str, extra: str = "", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>as told</Message>{extra}</Error>"
    return Answer(status, {"x-amz-request-id": "ID42", **headers}, body.encode())


def serve(seen: Seen, data: bytes = DATA) -> Answer:
    """The object, or a range of it."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
    if not found:
        return Answer(200, {"ETag": '"1"'}, data)
    first, last = int(found[1]), min(int(found[2]), len(data) - 1)
    headers = {"ETag": '"1"', "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Answer(206, headers, data[first : last + 1])


def read(path: str = "s3://bucket/key", size: int = len(DATA)) -> bytes:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(0, path, 0, [size])])
        return b"".join(chunk.numpy().tobytes() for _, _, chunk in streamer.get_chunks())


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
    def test_at_once(self, canned, status, code, expected, words):
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
    def test_after_some_attempts(self, canned, status, code, expected):
        server = canned(lambda seen: error(status, code))
        with pytest.raises(ValueError, match="3 attempts") as caught:
            read()
        assert caught.value.code == expected
        assert len(server.seen) == 3
        assert caught.value.attempts == 3

    def test_requester_pays(self, canned, use):
        def handler(seen):
            if seen.headers.get("x-amz-request-payer") != "requester":
                return error(403, "AccessDenied")
            return serve(seen)

        canned(handler)
        use({"RUNAI_STREAMER_S3_REQUEST_PAYER": "1"})
        assert read() == DATA


class TestTokens:
    def test_refreshed_once_when_expired(self, canned, use, tmp_path):
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

    def test_an_error_when_that_does_not_help(self, canned):
        server = canned(lambda seen: error(400, "ExpiredToken"))
        with pytest.raises(PermissionError, match="expired") as caught:
            read()
        assert caught.value.code == "credentials"
        assert len(server.seen) == 2


class TestRegions:
    @pytest.mark.parametrize("without_boto3", ["0", "1"])
    @pytest.mark.parametrize("source", ["AWS_REGION", "AWS_DEFAULT_REGION", "profile"])
    def test_settings(self, canned, use, monkeypatch, tmp_path, source, without_boto3):
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

    def test_in_the_body(self, canned):
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
    def test_skew_is_corrected_once(self, canned):
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
            key = "<Contents><Key>d/a.bin</Key><Size>3</Size></Contents>"
            return Answer(200, {}, f"<ListBucketResult>{key}</ListBucketResult>".encode())
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

    def test_no_session(self, canned):
        canned(lambda seen: error(403, "AccessDenied"))
        with pytest.raises(PermissionError, match="session"):
            read(f"s3://{self.BUCKET}/d/key")


class TestOddServers:
    def test_another_etag_is_a_change(self, canned):
        count = iter(range(100))

        def handler(seen):
            answer = serve(seen)
            answer.headers["ETag"] = f'"{next(count)}"'
            return answer

        canned(handler)
        with pytest.raises(OSError) as caught:
            read()
        assert caught.value.code == "changed"

    def test_ranges_are_pinned(self, canned):
        server = canned(serve)
        assert read() == DATA
        assert all(seen.headers.get("if-match") == '"1"' for seen in server.seen[1:])

    def test_less_than_asked_for(self, canned):
        """A server may send less at a time; what is missing is asked for again."""

        def handler(seen):
            first, last = re.findall(r"\d+", seen.headers["range"])
            seen.headers["range"] = f"bytes={first}-{min(int(last), int(first) + 2999)}"
            return serve(seen)

        server = canned(handler)
        assert read() == DATA
        assert len(server.seen) >= 4

    def test_a_retry_asks_only_for_what_is_missing(self, canned):
        def handler(seen):
            answer = serve(seen)
            if len(server.seen) == 2:
                size = str(len(answer.body))
                answer.headers |= {"Content-Length": size, "Connection": "close"}
                answer.body = answer.body[:4321]
            return answer

        server = canned(handler)
        assert read() == DATA
        ranges = [seen.headers["range"] for seen in server.seen[1:]]
        assert ranges == [f"bytes={first}-{len(DATA) - 1}" for first in (0, 4321)]

    def test_chunks_have_a_least_size(self, canned, use):
        data = bytes(12 << 20)
        server = canned(lambda seen: serve(seen, data))
        use({"RUNAI_STREAMER_CHUNK_BYTESIZE": "65536"})
        assert read(size=len(data)) == data
        assert len(server.seen) <= 4  # 5 MiB each, and the one that opens

    def test_a_list_that_never_ends(self, canned):
        body = (
            b"<ListBucketResult><IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
        )
        canned(lambda seen: Answer(200, {}, body))
        with pytest.raises(OSError, match="repeats"), FileStreamer() as streamer:
            streamer.list_files("s3://bucket/x")

    def test_a_list_that_is_none(self, canned):
        canned(lambda seen: Answer(200, {}, b"<html>welcome</html>"))
        with pytest.raises(OSError, match="understood"), FileStreamer() as streamer:
            streamer.list_files("s3://bucket/x")

    def test_headers_without_end(self, canned):
        many = {f"x-{index}": "y" * 900 for index in range(400)}
        canned(lambda seen: Answer(200, many, b""))
        with pytest.raises(OSError):
            read()


class TestRoundTrips:
    def test_first_tensor_takes_one_after_the_header(self, canned):
        """Every other range waits until the first tensor is there."""
        model = make_model(48, tensors=12)
        data = save(model)
        start = 8 + int.from_bytes(data[:8], "little")
        there = threading.Event()
        answered = []

        def handler(seen):
            first = int(seen.headers["range"].removeprefix("bytes=").split("-")[0])
            if first not in (0, start):
                there.wait(20)
            answered.append(first)
            return serve(seen, data)

        canned(handler)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["s3://bucket/m.safetensors"])
            tensors = streamer.get_tensors()
            name, tensor = next(tensors)
            assert answered == [0, start]
            there.set()
            check_same(model, {name: tensor, **dict(tensors)})


class TestTransport:
    def test_trace(self, canned, use, tmp_path):
        server = canned(serve)
        use({"RUNAI_STREAMER_S3_TRACE": "1", "RUNAI_STREAMER_TRACE_FILE": str(tmp_path / "trace")})
        assert read() == DATA
        lines = (tmp_path / "trace").read_text().splitlines()
        assert len(lines) == len(server.seen)
        for line in lines:
            assert re.search(r" GET http://127\.0\.0\.1:\d+/bucket/key range=bytes=\d+-\d+ ", line)
            assert re.search(r"status=206 bytes=\d+ ms=[\d.]+ .*retry=0 request_id=-$", line)
            assert S3_ENV["AWS_SECRET_ACCESS_KEY"] not in line
            assert "Signature" not in line

    def test_trace_into_the_working_directory(self, canned, use, tmp_path, monkeypatch):
        canned(serve)
        monkeypatch.chdir(tmp_path)
        use({"RUNAI_STREAMER_S3_TRACE": "1"})
        read()
        assert len(list(tmp_path.glob("runai_streamer_trace.*.log"))) == 1

    def test_deadline(self, canned, use):
        canned(lambda seen: error(503, "SlowDown"))
        use({"RUNAI_STREAMER_DEADLINE_SECONDS": "1", "RUNAI_STREAMER_MAX_ATTEMPTS": "100"})
        with pytest.raises(TimeoutError, match="RUNAI_STREAMER_DEADLINE_SECONDS"):
            read()

    def test_bandwidth_cap(self, canned, use):
        canned(serve)
        use({"RUNAI_STREAMER_MAX_BANDWIDTH": "10000"})
        start = time.monotonic()
        assert read() == DATA
        # 10 kB at 10 kB/s, less what may pass at once; being slower is no failure.
        assert time.monotonic() - start > 0.8

    def test_proxies(self, canned, use):
        """HTTP through a proxy carries the whole URL in the request line."""
        with Canned(serve) as proxy:
            canned(lambda seen: error(500, "NotThroughTheProxy"))
            use({"http_proxy": proxy.url, "AWS_ENDPOINT_URL": "http://s3.example.invalid"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            assert read() == DATA
            assert proxy.seen[0].path == "http://s3.example.invalid/bucket/key"
            use({"NO_PROXY": "s3.example.invalid", "no_proxy": "s3.example.invalid"})
            with pytest.raises(OSError) as caught:
                read()
            assert caught.value.code == "network"

    @pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
    def test_tunnels(self, use, authority, variable):
        """TLS through a proxy: it knows the name, which does not resolve here."""
        name = "s3.store.invalid"
        certificate = authority.issue(f"tunnel-{variable}", [name], [])
        with Canned(serve, certificate) as server, ConnectProxy({name: server.port}) as proxy:
            use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca), variable: proxy.url})
            use({"AWS_ENDPOINT_URL": f"https://{name}:{server.port}"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
            assert read() == DATA
            assert set(proxy.asked) == {f"CONNECT {name}:{server.port} HTTP/1.1"}
            tunnels = len(proxy.asked)
            use({"NO_PROXY": f"other.invalid,{name}"})
            with pytest.raises(OSError) as caught:
                read()
            assert caught.value.code == "network"
            assert len(proxy.asked) == tunnels
            use({"NO_PROXY": "other.invalid"})
            proxy.hosts.clear()
            with pytest.raises(OSError, match="HTTPS_PROXY") as caught:
                read()
            assert caught.value.code == "network"

    def test_handshakes_that_fail_at_first(self, use, authority, certificate):
        with Canned(serve, certificate) as server, Gate(server.port, losses=2) as gate:
            use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca)})
            use({"AWS_ENDPOINT_URL": f"https://127.0.0.1:{gate.port}"})
            assert read() == DATA
            assert gate.arrivals > 2

    def test_refused_for_a_while(self, canned, use):
        """The server goes away for the time of a restart, with its connections."""
        data = save(make_model(24))

        def answer(seen):
            if len(server.seen) != 2:
                return serve(seen, data)
            gate.shut()
            threading.Timer(0.3, gate.open).start()
            return Answer(503, {"Connection": "close"})

        server = canned(answer)
        with Gate(server.port) as gate:
            use({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{gate.port}"})
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "100", "RUNAI_STREAMER_CONCURRENCY": "1"})
            use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
            assert read(size=len(data)) == data
            assert gate.arrivals == 2

    @pytest.mark.parametrize(
        ("name", "value"),
        [("RUNAI_STREAMER_MAX_ATTEMPTS", "0"), ("RUNAI_STREAMER_MAX_BANDWIDTH", "fast")],
    )
    def test_settings_are_checked(self, canned, use, name, value):
        canned(serve)
        use({name: value})
        with pytest.raises(ValueError, match=name):
            read()
