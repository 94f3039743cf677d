"""Where requests for a bucket go, by the settings of AWS' tools: as botocore does."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse

import pytest

from runai_model_streamer import StreamerError, list_files, list_safetensors
from tests.python.object_storage.canned_s3 import DATA, error, listed, read, serve
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.connect_proxy import ConnectProxy

ACCESS_POINT = "arn:aws:s3:us-west-2:123456789012:accesspoint/mine"
EXPRESS = "name--use1-az4--x-s3"


@pytest.fixture
def configure(use, tmp_path):
    """Writes the lines of the profile, and sets variables."""

    def apply(profile: str, variables: dict[str, str]) -> None:
        (tmp_path / "config").write_text(f"[default]\n{profile}\n")
        use({"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": "/none"})
        use({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s", **variables})

    return apply


def by_botocore(bucket: str, region: str) -> str:
    """The host that botocore resolves, without a request."""
    session = pytest.importorskip("botocore.session").Session()
    config = pytest.importorskip("botocore.config").Config(signature_version="s3v4")
    client = session.create_client("s3", region_name=region, config=config)
    resolved = client._ruleset_resolver.construct_endpoint(
        client.meta.service_model.operation_model("GetObject"),
        {"Bucket": bucket, "Key": "k"},
        {"client_config": client.meta.config, "client_region": region},
    )
    return urllib.parse.urlsplit(resolved.url).hostname or ""


def asked_by_us(bucket: str, region: str, use) -> str:
    """The host that a read connects to."""
    with ConnectProxy({}) as proxy:
        use({"HTTPS_PROXY": proxy.url, "AWS_REGION": region, "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
        with pytest.raises(StreamerError):
            read(f"s3://{bucket}/k")
        return proxy.asked[0].split()[1].rpartition(":")[0]


REGIONS = {
    "aws": "us-west-2",
    "aws-cn": "cn-north-1",
    "aws-us-gov": "us-gov-west-1",
    "aws-iso": "us-iso-east-1",
    "aws-iso-b": "us-isob-east-1",
    "aws-iso-e": "eu-isoe-west-1",
    "aws-iso-f": "us-isof-south-1",
    "aws-eusc": "eusc-de-east-1",
}
STYLE = "s3 =\n  addressing_style = "
# What the guide's table lists: bucket, profile, variables.
ROWS = {
    "addressing_style path": ("bucket", STYLE + "path", {}),
    "addressing_style virtual": ("bucket", STYLE + "virtual", {}),
    "use_fips_endpoint": ("bucket", "use_fips_endpoint = true", {}),
    "AWS_USE_FIPS_ENDPOINT": ("bucket", "", {"AWS_USE_FIPS_ENDPOINT": "true"}),
    "use_dualstack_endpoint": ("bucket", "use_dualstack_endpoint = true", {}),
    "s3 use_dualstack_endpoint": ("bucket", "s3 =\n  use_dualstack_endpoint = true", {}),
    "AWS_USE_DUALSTACK_ENDPOINT": ("bucket", "", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "both": (
        "bucket",
        "use_fips_endpoint = true",
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
    ),
    "use_accelerate_endpoint": ("bucket", "s3 =\n  use_accelerate_endpoint = true", {}),
    "accelerate, dual stack": (
        "bucket",
        "use_dualstack_endpoint = true\ns3 =\n  use_accelerate_endpoint = true",
        {},
    ),
    "a bucket with dots": ("with.dots", "", {}),
    "access point": (ACCESS_POINT, "", {}),
    "access point, FIPS": (ACCESS_POINT, "use_fips_endpoint = true", {}),
    "access point, dual stack": (ACCESS_POINT, "use_dualstack_endpoint = true", {}),
    "directory bucket": (EXPRESS, "", {}),
    "directory bucket, FIPS": (EXPRESS, "use_fips_endpoint = true", {}),
    "directory bucket, dual stack": (EXPRESS, "use_dualstack_endpoint = true", {}),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_setting_chooses_the_host_that_botocore_chooses(configure, use, row):
    bucket, profile, variables = ROWS[row]
    configure(profile, variables)
    assert asked_by_us(bucket, "us-west-2", use) == by_botocore(bucket, "us-west-2")


@pytest.mark.parametrize("partition", REGIONS)
def test_every_partition_has_its_suffix(configure, use, partition):
    configure(STYLE + "virtual", {})
    region = REGIONS[partition]
    assert asked_by_us("bucket", region, use) == by_botocore("bucket", region)


@pytest.mark.parametrize(
    ("bucket", "region", "profile", "variables", "words"),
    [
        (
            "b",
            "us-west-2",
            "use_fips_endpoint = true\ns3 =\n  use_accelerate_endpoint = true",
            {},
            "FIPS",
        ),
        (
            "b",
            "us-west-2",
            "s3 =\n  use_accelerate_endpoint = true",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "endpoint",
        ),
        (
            "b",
            "us-west-2",
            "s3 =\n  use_accelerate_endpoint = true\n  addressing_style = path",
            {},
            "path style",
        ),
        ("with.dots", "us-west-2", "s3 =\n  use_accelerate_endpoint = true", {}, "Accelerate"),
        ("bucket", "cn-north-1", "s3 =\n  use_accelerate_endpoint = true", {}, "Accelerate"),
        ("bucket", "cn-north-1", "use_fips_endpoint = true", {}, "FIPS"),
        ("bucket", "us-west-2", "use_fips_endpoint = perhaps", {}, "use_fips_endpoint"),
        ("bucket", "us-west-2", STYLE + "odd", {}, "addressing_style"),
        ("arn:aws:s3::123456789012:accesspoint/m.mrap", "us-west-2", "", {}, "multi-region"),
        (
            "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/m",
            "us-west-2",
            "",
            {},
            "s3alias",
        ),
        (
            "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op/accesspoint/m",
            "us-west-2",
            "",
            {},
            "access points",
        ),
        ("arn:aws:s3:us-west-2:x:accesspoint/m", "us-west-2", "", {}, "ARN"),
        ("arn:aws:s3:x.attacker.test/:1:accesspoint/m", "us-west-2", "", {}, "ARN"),
    ],
)
def test_what_is_not_possible_is_an_error_before_any_request(
    configure, use, bucket, region, profile, variables, words
):
    configure(profile, variables)
    use({"HTTPS_PROXY": "http://127.0.0.1:9", "AWS_REGION": region})
    with pytest.raises(StreamerError, match=words) as caught:
        read(f"s3://{bucket}/k")
    assert caught.value.code in ("invalid", "unsupported")


def test_an_access_point_lists_and_is_signed_for_its_region(configure, use):
    with Canned(lambda seen: listed({"m/a.safetensors": 1})) as server:
        host = f"mine-123456789012.localhost:{server.port}"
        configure(
            "", {"AWS_ENDPOINT_URL": f"http://localhost:{server.port}", "AWS_REGION": "x-y-1"}
        )
        found = list_safetensors(f"s3://{ACCESS_POINT}/m")
    assert found == [f"s3://{ACCESS_POINT}/m/a.safetensors"]
    assert server.seen[0].headers["host"] == host
    assert "/us-west-2/s3/" in server.seen[0].headers["authorization"]


class TestEndpointsOfOnesOwn:
    @pytest.fixture
    def endpoint(self, configure):
        """A server at a name that has no names below it."""
        name = socket.gethostname()
        try:
            address = socket.gethostbyname(name)
        except OSError:
            pytest.skip("the name of this machine does not resolve")
        if not address.startswith("127.") or "localhost" in name:
            pytest.skip("the name of this machine is not one of loopback")
        with Canned(serve) as server:
            configure("", {"AWS_ENDPOINT_URL": f"http://{name}:{server.port}"})
            yield server

    def test_the_bucket_goes_into_the_path_where_its_host_does_not_resolve(self, endpoint):
        assert read() == DATA
        assert {seen.path for seen in endpoint.seen} == {"/bucket/key"}

    def test_a_setting_for_virtual_hosts_is_obeyed(self, endpoint, use):
        use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1", "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
        with pytest.raises(StreamerError) as caught:
            read()
        assert caught.value.code == "network"
        assert not endpoint.seen


class TestHostsOfBuckets:
    """Names are those of a proxy here: each resolves."""

    @pytest.fixture
    def network(self, configure, use):
        """Starts what answers for all hosts. `answer` gets the host and the request."""
        with contextlib.ExitStack() as stack:

            def start(answer) -> Canned:
                proxy = stack.enter_context(
                    Canned(lambda seen: answer(urllib.parse.urlsplit(seen.path).hostname, seen))
                )
                configure("", {"AWS_ENDPOINT_URL": "http://minio.test:9000"})
                use({"http_proxy": proxy.url})
                return proxy

            yield start

    @pytest.mark.parametrize("status", [400, 403, 404, 421, 502, 503])
    def test_the_path_is_taken_where_another_server_has_them(self, network, status):
        def answer(host, seen):
            if host != "minio.test":
                return Answer(status, {}, b"default backend")
            query = urllib.parse.urlsplit(seen.path).query
            return listed({"key": len(DATA)}) if "list-type" in query else serve(seen)

        proxy = network(answer)
        assert read() == DATA
        assert list_files("s3://bucket/") == [("s3://bucket/key", len(DATA))]
        wrong = [seen.path for seen in proxy.seen if "//bucket.minio.test" in seen.path]
        assert len(wrong) == 2  # the first request of the load, and of the list

    def test_what_the_store_says_is_final(self, network):
        proxy = network(lambda host, seen: error(404, "NoSuchKey"))
        with pytest.raises(StreamerError, match="NoSuchKey"):
            read()
        assert [urllib.parse.urlsplit(s.path).hostname for s in proxy.seen] == ["bucket.minio.test"]

    def test_the_error_of_the_last_host_is_told_where_none_is_the_store(self, network):
        proxy = network(lambda host, seen: Answer(404, {}, b"default backend"))
        with pytest.raises(StreamerError, match="HTTP 404"):
            read()
        hosts = [urllib.parse.urlsplit(s.path).hostname for s in proxy.seen]
        assert hosts == ["bucket.minio.test", "minio.test"]

    def test_a_setting_is_obeyed(self, network, use):
        proxy = network(lambda host, seen: Answer(404, {}, b"default backend"))
        use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1"})
        with pytest.raises(StreamerError, match="HTTP 404"):
            read()
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("scheme", ["s3a", "S3A"])
def test_the_name_that_hadoop_has_for_s3(canned, scheme):
    canned(serve)
    assert read(f"{scheme}://bucket/key") == DATA
