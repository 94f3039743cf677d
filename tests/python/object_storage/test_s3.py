"""S3 against Ceph's gateway: addresses, identities, keys, lists, versions, TLS, a crash."""

from __future__ import annotations

import threading

import pytest

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from runai_model_streamer.s3_utils import S3Credentials
from tests.python.object_storage.canned_s3 import read
from tests.python.object_storage.storages import OPERATIONS
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.ceph import (
    ACCESS_KEY,
    OTHER_ACCESS_KEY,
    OTHER_SECRET_KEY,
    SECRET_KEY,
    Ceph,
)

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
MODEL = make_model(12, seed=3)
BYTES = save(MODEL)


@pytest.fixture
def model(s3_storage, use):
    """The path of MODEL; settings reach it."""
    s3_storage.put("model.safetensors", BYTES)
    use(s3_storage.env)
    return f"{s3_storage.uri}/model.safetensors"


class TestAddresses:
    @pytest.mark.parametrize(
        "variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "RUNAI_STREAMER_S3_ENDPOINT"]
    )
    def test_each_variable_of_the_endpoint_is_used(self, model, ceph, use, monkeypatch, variable):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        use({variable: ceph.url})
        check_same(MODEL, load(model))

    def test_the_endpoint_for_s3_beats_the_general_one(self, model, ceph, use):
        # SGLang copies the general one to RUNAI_STREAMER_S3_ENDPOINT.
        wrong = "http://127.0.0.1:9"
        use({"AWS_ENDPOINT_URL": wrong, "RUNAI_STREAMER_S3_ENDPOINT": wrong})
        use({"AWS_ENDPOINT_URL_S3": ceph.url})
        check_same(MODEL, load(model))

    def test_the_profile_names_the_endpoint(self, model, ceph, monkeypatch, tmp_path, use):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        config = tmp_path / "config"
        config.write_text(f"[profile p]\nendpoint_url = {ceph.url}\n")
        use({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "p"})
        check_same(MODEL, load(model))

    def test_buckets_can_be_host_names(self, model, ceph, use):
        trace = {"AWS_ENDPOINT_URL": ceph.virtual_url}
        use({**trace, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1"})
        check_same(MODEL, load(model))

    def test_buckets_with_dots_are_in_the_path(self, ceph, use):
        ceph.client().create_bucket(Bucket="with.dots")
        ceph.client().put_object(Bucket="with.dots", Key="k", Body=b"dots")
        use({**S3_ENV, "AWS_ENDPOINT_URL": ceph.virtual_url})
        use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1"})
        assert read("s3://with.dots/k", 4) == b"dots"

    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("endpoint", ["http://nowhere.invalid", "http://127.0.0.1:9"])
    def test_an_endpoint_without_a_server_is_an_error_after_all_attempts(
        self, s3_storage, use, tmp_path, endpoint, operation
    ):
        """A name that does not resolve; a port that nobody listens at."""
        use({**S3_ENV, "AWS_ENDPOINT_URL": endpoint})
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
        with pytest.raises(OSError) as caught:
            OPERATIONS[operation](f"{s3_storage.uri}/m.safetensors", tmp_path)
        assert caught.value.code == "network"
        # Each attempt at a name tries it with the bucket in front, too.
        assert caught.value.attempts == (4 if "nowhere" in endpoint else 2)
        assert caught.value.path.startswith(s3_storage.uri)

    def test_an_endpoint_that_is_none(self, model, use):
        use({"AWS_ENDPOINT_URL": "ftp://user:hidden@host"})
        with pytest.raises(ValueError, match="AWS_ENDPOINT_URL") as caught:
            load(model)
        assert "hidden" not in str(caught.value)


class TestIdentities:
    def test_credentials_of_the_environment_are_used(self, model):
        check_same(MODEL, load(model))

    def test_the_cores_own_environment(self, model, use):
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
        check_same(MODEL, load(model))

    @pytest.mark.parametrize("boto3", ["0", "1"])
    def test_a_profile_gives_keys_and_region(self, model, use, monkeypatch, tmp_path, boto3):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_REGION")
        credentials, config = tmp_path / "credentials", tmp_path / "config"
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        credentials.write_text(f"[default]\naws_access_key_id = x\n[work]\n{keys}")
        config.write_text("[profile work]\nregion = us-east-1\n")
        use({"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "AWS_CONFIG_FILE": str(config)})
        use({"AWS_PROFILE": "work", "RUNAI_STREAMER_NO_BOTO3_SESSION": boto3})
        check_same(MODEL, load(model))

    def test_credentials_of_the_caller_win(self, model, ceph, use, monkeypatch):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        use({"AWS_ACCESS_KEY_ID": "wrong", "AWS_SECRET_ACCESS_KEY": "wrong"})
        given = S3Credentials(ACCESS_KEY, SECRET_KEY, None, "us-east-1", ceph.url)
        check_same(MODEL, load(model, given))
        assert list_safetensors(model.rpartition("/")[0], given) == [model]
        assert SECRET_KEY not in repr(given)

    def test_the_caller_may_name_only_an_endpoint(self, model, ceph, monkeypatch):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        check_same(MODEL, load(model, S3Credentials(endpoint=ceph.url)))

    def test_unsigned_requests_reach_a_public_object(self, model, use, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        use({"RUNAI_STREAMER_S3_UNSIGNED": "1"})
        check_same(MODEL, load(model))

    @pytest.mark.parametrize("boto3", ["0", "1"])
    def test_no_credentials_is_an_error_that_names_the_setting(
        self, model, use, monkeypatch, boto3
    ):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": boto3})
        with pytest.raises(PermissionError, match="RUNAI_STREAMER_S3_UNSIGNED") as caught:
            load(model)
        assert caught.value.code == "credentials"

    @pytest.mark.parametrize("boto3", ["0", "1"])
    def test_a_wrong_secret_is_an_error_without_the_secret(self, model, use, boto3):
        secret = "a-secret-that-is-wrong-0123456789abcdef"
        use({"AWS_SECRET_ACCESS_KEY": secret, "RUNAI_STREAMER_NO_BOTO3_SESSION": boto3})
        with pytest.raises(PermissionError) as caught:
            load(model)
        error = caught.value
        assert error.code == "credentials"
        assert error.http_status == 403
        assert error.server_code == "SignatureDoesNotMatch"
        assert "TEST...0001" in error.identity
        assert "AWS_ACCESS_KEY_ID" in error.identity
        assert error.request_id
        assert secret not in str(error)

    def test_somebody_elses_object(self, s3_storage, ceph, bucket, use):
        ceph.client().put_object(Bucket=bucket, Key="private", Body=b"private")
        use(s3_storage.env)
        use({"AWS_ACCESS_KEY_ID": OTHER_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": OTHER_SECRET_KEY})
        with pytest.raises(PermissionError) as caught:
            read(f"s3://{bucket}/private", 7)
        assert caught.value.code == "permission"
        assert "OTHE...0002" in str(caught.value)

    def test_session_tokens_and_assumed_roles_are_used(self, use, monkeypatch, tmp_path):
        with Ceph(sts=True, megabytes=256) as server:
            server.client().create_bucket(Bucket="models")
            server.client().put_object(Bucket="models", Key="k", Body=b"token")
            found = server.assume_role()
            use({"AWS_ENDPOINT_URL": server.url, "AWS_REGION": "us-east-1", **found})
            assert read("s3://models/k", 5) == b"token"
            use({"AWS_SESSION_TOKEN": found["AWS_SESSION_TOKEN"][:-8] + "AAAAAAAA"})
            with pytest.raises(StreamerError) as caught:  # Ceph: InvalidArgument or AccessDenied
                read("s3://models/k", 5)
            assert caught.value.http_status in (400, 403)
            assert found["AWS_SESSION_TOKEN"] not in str(caught.value)
            # boto3 assumes the role that a profile names.
            for name in found:
                monkeypatch.delenv(name)
            config = tmp_path / "config"
            config.write_text(
                "[profile loader]\nrole_arn = arn:aws:iam:::role/r\nsource_profile = base\n"
                f"[profile base]\naws_access_key_id = {ACCESS_KEY}\n"
                f"aws_secret_access_key = {SECRET_KEY}\n"
            )
            use({"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "loader"})
            assert read("s3://models/k", 5) == b"token"
            with pytest.raises(FileNotFoundError) as missing:
                read("s3://models/none", 5)
            assert "boto3 (assume-role)" in missing.value.identity
            assert ACCESS_KEY[-4:] not in missing.value.identity


class TestObjects:
    def test_a_missing_object_or_bucket_is_not_found(self, model):
        for path in (model + ".none", "s3://no-such-bucket-here/key"):
            with pytest.raises(FileNotFoundError) as caught:
                load(path)
            assert caught.value.http_status == 404
            assert caught.value.server_code in ("NoSuchKey", "NoSuchBucket")
            assert caught.value.path == path

    @pytest.mark.parametrize("path", ["s3://", "s3:///key", "s3://bucket", "s3://bucket/"])
    def test_paths_that_name_nothing(self, model, path):
        with pytest.raises(ValueError, match="names no"):
            load(path)

    @pytest.mark.parametrize(
        "name",
        [
            "plain",
            "with space",
            "a+b",
            "100%",
            "%20",
            "ünï/cødé-😀",
            "a//b",
            "q?x=1&y#z",
            "'\"<>;:@=",
        ],
    )
    def test_an_odd_key_loads_and_lists(self, s3_storage, use, name):
        use(s3_storage.env)
        s3_storage.put(f"keys/{name}.safetensors", BYTES)
        path = f"{s3_storage.uri}/keys/{name}.safetensors"
        check_same(MODEL, load(path))
        with FileStreamer() as streamer:
            assert (path, len(BYTES)) in streamer.list_files(f"{s3_storage.uri}/keys")

    def test_odd_keys_become_safe_file_names(self, s3_storage, use, tmp_path):
        use(s3_storage.env)
        for name in ("a//b", "deep/", "deep/c", "d?e", "\\f"):
            s3_storage.put(f"files/{name}", name.encode())
        pull_files(f"{s3_storage.uri}/files", str(tmp_path))
        found = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("*") if p.is_file()}
        assert sorted(found) == ["\\f", "a/b", "d?e", "deep/c"]
        assert found["a/b"].read_bytes() == b"a//b"

    def test_tiny_and_empty_objects_are_read(self, s3_storage, use):
        use(s3_storage.env)
        s3_storage.put("sizes/one", b"x")
        s3_storage.put("sizes/none", b"")
        assert read(f"{s3_storage.uri}/sizes/one", 1) == b"x"
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(7, f"{s3_storage.uri}/sizes/none", 0, [0])])
            assert [(i, n, c.numel()) for i, n, c in streamer.get_chunks()] == [(7, 0, 0)]
        for name in ("one", "none"):
            with pytest.raises(ValueError, match=f"sizes/{name}"):
                load(f"{s3_storage.uri}/sizes/{name}")

    def test_a_range_behind_the_end(self, s3_storage, use):
        use(s3_storage.env)
        s3_storage.put("sizes/one", b"x")
        with pytest.raises(OSError) as caught:
            read(f"{s3_storage.uri}/sizes/one", 2)
        assert caught.value.code == "short_read"

    def test_a_thousand_small_files_are_listed_and_read(self, s3_storage, use):
        use(s3_storage.env)
        names = [f"many/{index:04}" for index in range(1005)]
        for name in names:
            s3_storage.put(name, name.encode())
        with FileStreamer() as streamer:
            found = streamer.list_files(f"{s3_storage.uri}/many")
            assert [path for path, _ in found] == [f"{s3_storage.uri}/{name}" for name in names]
            requests = [FileChunks(i, path, 0, [size]) for i, (path, size) in enumerate(found)]
            streamer.stream_files(requests)
            for index, _, chunk in streamer.get_chunks():
                assert chunk.numpy().tobytes() == names[index].encode()

    def test_lists_are_of_the_directory_itself(self, s3_storage, use):
        use(s3_storage.env)
        for name in ("b.safetensors", "a.safetensors", "deep/c.safetensors", "x.txt"):
            s3_storage.put(f"listing/{name}", b"x")
        s3_storage.put("listing-not/d.safetensors", b"x")
        directory = f"{s3_storage.uri}/listing"
        expected = [f"{directory}/a.safetensors", f"{directory}/b.safetensors"]
        assert list_safetensors(directory) == expected
        assert list_safetensors(directory + "/") == expected
        assert list_safetensors(f"{s3_storage.uri}/nothing") == []
        with FileStreamer() as streamer:
            every = streamer.list_files(directory)
            assert [path for path, _ in every] == [
                *expected,
                *sorted([f"{directory}/deep/c.safetensors", f"{directory}/x.txt"]),
            ]
            assert len(streamer.list_files(directory, is_recursive=False)) == 3
            # Patterns are for the key, without the bucket.
            key = directory.split("/", 3)[3]
            assert len(streamer.list_files(directory, allow_patterns=[key + "/*.txt"])) == 1
            assert len(streamer.list_files(directory, ignore_patterns=["*.safetensors"])) == 1

    def test_a_small_header_takes_one_request(self, model, use, tmp_path):
        use({"RUNAI_STREAMER_TRACE_FILE": str(tmp_path / "trace")})
        with SafetensorsStreamer() as streamer:
            streamer.open_files([model])
        assert len((tmp_path / "trace").read_text().splitlines()) == 1

    def test_an_object_that_is_replaced(self, s3_storage, use):
        s3_storage.put("replaced.safetensors", BYTES)
        use(s3_storage.env)
        path = f"{s3_storage.uri}/replaced.safetensors"
        with FileStreamer() as files:
            session, _ = files.open_files([path])
            s3_storage.put("replaced.safetensors", save(make_model(12, seed=4)))
            with pytest.raises(OSError) as caught:
                next(session.read([(path, 100, 1000)]))
        assert caught.value.code == "changed"
        assert caught.value.http_status == 412

    def test_files_may_not_be_mixed_in(self, model, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(BYTES)
        with pytest.raises(ValueError, match="mixed"), SafetensorsStreamer() as streamer:
            streamer.stream_files([model, str(tmp_path / "a.safetensors")])


def test_a_server_that_is_killed_is_an_error(use):
    with Ceph(megabytes=512) as server:
        client = server.client()
        client.create_bucket(Bucket="models")
        model = make_model(96, tensors=24)
        client.put_object(Bucket="models", Key="m.safetensors", Body=save(model))
        use({**S3_ENV, "AWS_ENDPOINT_URL": server.url})
        use({"RUNAI_STREAMER_CONCURRENCY": "1", "RUNAI_STREAMER_MEMORY_LIMIT": str(32 << 20)})
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "4"})
        with SafetensorsStreamer() as streamer, pytest.raises(OSError) as caught:
            streamer.stream_file("s3://models/m.safetensors")
            for name, tensor in streamer.get_tensors():
                assert (tensor == model[name]).all()
                server.kill()
        assert caught.value.code in ("network", "short_read")


def test_closing_does_not_wait_for_a_silent_server(s3_storage, use):
    s3_storage.put("model.safetensors", BYTES)
    use(s3_storage.proxied)
    with FileStreamer() as files:
        session, _ = files.open_files([f"{s3_storage.uri}/model.safetensors"])
        s3_storage.nginx.fault("delay", ms=100_000)
        session.submit([FileChunks(0, f"{s3_storage.uri}/model.safetensors", 0, [len(BYTES)])])
        closer = threading.Timer(0.5, session.stream.cancel)
        closer.start()
        with pytest.raises(StreamerError) as caught:
            list(session.runs())
        closer.join()
        assert caught.value.code == "cancelled"
    s3_storage.nginx.clear_faults()


def test_reads_that_lag_are_left_alone_where_that_is_wanted(s3_storage, use):
    s3_storage.put("large.safetensors", save(make_model(60, tensors=30)))
    use(s3_storage.proxied)
    use({"RUNAI_STREAMER_ABORT_STRAGGLERS": "0", "RUNAI_STREAMER_CONCURRENCY": "2"})
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
    match = s3_storage.read_match + ".* bytes=[1-9]"
    s3_storage.nginx.fault("rate", bps=5 << 20, skip=8, first=1, match=match)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(f"{s3_storage.uri}/large.safetensors")
        check_same(make_model(60, tensors=30), dict(streamer.get_tensors()))
        assert streamer.stats().stragglers == 0
