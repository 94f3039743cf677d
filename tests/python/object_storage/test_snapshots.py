"""What is read of objects that are replaced while they are read."""

from __future__ import annotations

import email.utils
import os
import threading
import time

import pytest

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    pull_files,
)
from tests.python.object_storage.canned_s3 import DATA, error, read, serve
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Answer, Canned, ranged

OLD, NEW = make_model(24, seed=1), make_model(24, seed=2)
ONE_BY_ONE = {"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20), "RUNAI_STREAMER_CONCURRENCY": "1"}


class TestStoresThatKeepVersions:
    @pytest.fixture
    def bucket(self, moto, use):
        """A client, and the name of a bucket that keeps versions."""
        client = moto.client()
        client.create_bucket(Bucket="kept")
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
        use({"AWS_ENDPOINT_URL": moto.url, **ONE_BY_ONE})
        use({"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"})
        return client

    @pytest.mark.servers
    @pytest.mark.parametrize("change", ["put", "delete"])
    def test_a_load_survives_the_replacement_of_its_object(self, bucket, change):
        bucket.put_object(Bucket="kept", Key="m.safetensors", Body=save(OLD))
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["s3://kept/m.safetensors"])
            if change == "put":
                bucket.put_object(Bucket="kept", Key="m.safetensors", Body=save(NEW))
            else:
                bucket.delete_object(Bucket="kept", Key="m.safetensors")
            check_same(OLD, dict(streamer.get_tensors()))

    @pytest.mark.servers
    def test_a_path_names_a_version(self, bucket):
        old = bucket.put_object(Bucket="kept", Key="n.safetensors", Body=save(OLD))["VersionId"]
        new = bucket.put_object(Bucket="kept", Key="n.safetensors", Body=save(NEW))["VersionId"]
        check_same(OLD, load(f"s3://kept/n.safetensors?versionId={old}"))
        check_same(NEW, load(f"s3://kept/n.safetensors?versionId={new}"))
        check_same(NEW, load("s3://kept/n.safetensors"))

    def test_gcs_keeps_generations(self, gcs, use):
        gcs.versioned = True
        gcs.put("models", "m.safetensors", save(OLD))
        use({"STORAGE_EMULATOR_HOST": gcs.url, **ONE_BY_ONE})
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["gs://models/m.safetensors"])
            gcs.put("models", "m.safetensors", save(NEW))
            check_same(OLD, dict(streamer.get_tensors()))

    def test_azure_is_asked_for_the_version_of_the_first_read(self, canned, use):
        big = DATA * 4096

        def handler(seen):
            named = "versionid=2024-01-01T00%3A00%3A00.0000000Z" in seen.path
            headers = {"x-ms-version-id": "2024-01-01T00:00:00.0000000Z"}
            if len(server.seen) > 1 and not named:
                return Answer(412, {"x-ms-error-code": "ConditionNotMet"})
            return ranged(seen, big, '"1"', **headers)

        server = canned(handler)
        use(ONE_BY_ONE)
        use(
            {
                "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=a;"
                f"AccountKey=a2V5;BlobEndpoint={server.url}/a"
            }
        )
        assert read("az://models/key", len(big)) == big

    def test_a_version_that_is_not_given_is_an_error_that_says_what_happened(self, canned, use):
        big = DATA * 4096

        def handler(seen):
            if "versionId=" in seen.path:
                return error(403, "AccessDenied")
            if len(server.seen) > 1:
                return error(412, "PreconditionFailed")
            return ranged(seen, big, '"1"', **{"x-amz-version-id": "v1"})

        server = canned(handler)
        use(ONE_BY_ONE)
        with pytest.raises(StreamerError, match="does not give the former version") as caught:
            read(size=len(big))
        assert (caught.value.code, caught.value.server_code) == ("changed", "AccessDenied")

    def test_a_read_that_is_aborted_knows_of_no_former_version(self, canned, use):
        """It lags when it asks for the version; the read in its place is told what happened."""
        big, again = DATA * 4096, threading.Event()

        def handler(seen):
            if "&generation=" in seen.path:
                if handler.asked:
                    again.set()
                handler.asked = True
                again.wait(60)
                return Answer(404, {}, b"No such object")
            answer = ranged(seen, big, '"1"', **{"X-Goog-Generation": "1"})
            return Answer(412) if seen.headers["range"].endswith(f"-{len(big) - 1}") else answer

        handler.asked = False
        server = canned(handler)
        use({**ONE_BY_ONE, "RUNAI_STREAMER_CONCURRENCY": "2"})
        use({"STORAGE_EMULATOR_HOST": server.url, "RUNAI_STREAMER_LOW_SPEED_SECONDS": "100"})
        with pytest.raises(StreamerError) as caught:
            read("gs://models/key", len(big))
        assert again.is_set()
        assert caught.value.code == "changed", caught.value

    def test_a_version_is_asked_for_only_once_the_object_was_replaced(self, canned):
        """It needs a permission of its own."""
        server = canned(lambda seen: ranged(seen, DATA, '"1"', **{"x-amz-version-id": "v1"}))
        assert read() == DATA
        assert not any("versionId" in seen.path for seen in server.seen)


def listed(etag: str) -> Answer:
    entry = f"<Contents><Key>f/m.bin</Key><Size>{len(DATA)}</Size><ETag>{etag}</ETag></Contents>"
    return Answer(200, {}, f"<ListBucketResult>{entry}</ListBucketResult>".encode())


@pytest.mark.parametrize("etag", ["&quot;1&quot;", "1"])
def test_a_pull_reads_what_the_list_told(canned, tmp_path, etag):
    server = canned(lambda seen: listed(etag) if "list-type" in seen.path else serve(seen))
    pull_files("s3://bucket/f", str(tmp_path / "out"))
    assert (tmp_path / "out/m.bin").read_bytes() == DATA
    reads = [seen for seen in server.seen if "list-type" not in seen.path]
    assert {seen.headers["if-match"] for seen in reads} == {'"1"'}


def test_an_object_that_was_replaced_since_the_list_is_an_error(canned, tmp_path):
    canned(lambda seen: listed("&quot;0&quot;") if "list-type" in seen.path else serve(seen))
    with pytest.raises(StreamerError) as caught:
        pull_files("s3://bucket/f", str(tmp_path / "out"))
    assert caught.value.code == "changed"
    assert not list((tmp_path / "out").glob("m*"))


def notes_of(paths: list[str]) -> dict[str, str]:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(i, path, 0, [8]) for i, path in enumerate(paths)])
        for _ in streamer.get_chunks():
            pass
        return streamer.stats().notes


def test_a_set_that_changes_between_its_files_is_told(canned):
    def handler(seen):
        written = time.time() + (60 if "late" in seen.path else 1)
        stamp = email.utils.formatdate(written, usegmt=True)
        now = email.utils.formatdate(usegmt=True)
        return ranged(seen, DATA, '"1"', **{"Last-Modified": stamp, "Date": now})

    canned(handler)
    assert "set" not in notes_of(["s3://bucket/a", "s3://bucket/b"])
    assert "s3://bucket/late" in notes_of(["s3://bucket/a", "s3://bucket/late"])["set"]


class TestServersWithoutValidators:
    @pytest.fixture
    def url(self, canned):
        return canned(lambda seen: ranged(seen, DATA, "")).url + "/a?secret=x"

    def test_the_statistics_say_that_a_change_stays_unnoticed(self, url):
        note = notes_of([url])["versions"]
        assert "neither ETag nor Last-Modified" in note
        assert "/a" in note and "secret" not in note

    def test_the_log_warns(self, url, caplog):
        notes_of([url])
        assert "neither ETag nor Last-Modified" in caplog.text
        assert "secret" not in caplog.text

    def test_a_setting_refuses_them(self, url, use):
        use({"RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR": "1"})
        with pytest.raises(StreamerError, match="neither ETag nor Last-Modified") as caught:
            read(url)
        assert caught.value.code == "unsupported"

    def test_the_setting_accepts_others(self, canned, use):
        use({"RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR": "1"})
        assert read(canned(serve).url + "/a") == DATA


THEN, NOW = email.utils.formatdate(0, usegmt=True), email.utils.formatdate(1, usegmt=True)
SAMPLED = {
    "no validator": {},
    "weak ETag": {"ETag": 'W/"1"'},
    "written in this second": {"Last-Modified": NOW},
    "ETag of this second": {"Last-Modified": NOW, "ETag": '"1-1400000"'},
}
PINNED = {
    "written before": {"Last-Modified": THEN},
    "ETag": {"Last-Modified": NOW, "ETag": '"abc"'},
    "ETag of a second before": {"Last-Modified": THEN, "ETag": '"0-1400000"'},
}


class TestContentThatNothingPins:
    """The server sends the same validators before and after the object is replaced."""

    def serve(self, headers, replaced_after=10**9):
        """An object of SIZE bytes whose content is another after so many requests: one to open
        it, and then one for each read and each sample."""
        old, new = bytes(self.SIZE), bytes([1]) * self.SIZE

        def handler(seen):
            data = old if len(server.seen) <= replaced_after else new
            return ranged(seen, data, "", **{"Date": NOW, **headers})

        server = Canned(handler)
        return server

    SIZE = 11 << 20  # three reads

    def samples(self, server):
        spans = [seen.headers["range"].partition("=")[2].split("-") for seen in server.seen[1:]]
        return sum(int(last) - int(first) < 1024 for first, last in spans)

    @pytest.mark.parametrize("kind", SAMPLED)
    @pytest.mark.parametrize("replaced_after", [2, 4])
    def test_a_replacement_is_an_error(self, use, no_aborts, kind, replaced_after):
        use(ONE_BY_ONE)
        with self.serve(SAMPLED[kind], replaced_after) as server:
            with pytest.raises(StreamerError, match="replaced while it was read") as caught:
                read(f"{server.url}/a", self.SIZE)
            assert caught.value.code == "changed"

    @pytest.mark.parametrize("kind", [*SAMPLED, *PINNED])
    def test_only_such_content_is_read_again(self, use, no_aborts, kind):
        use({**ONE_BY_ONE, "RUNAI_STREAMER_CONCURRENCY": "3"})
        with self.serve({**SAMPLED, **PINNED}[kind]) as server:
            assert read(f"{server.url}/a", self.SIZE) == bytes(self.SIZE)
            assert (self.samples(server) > 0) is (kind in SAMPLED)

    def test_every_protocol_does(self, canned, use, no_aborts):
        use(ONE_BY_ONE)
        old, new = bytes(self.SIZE), bytes([1]) * self.SIZE
        server = canned(lambda seen: ranged(seen, old if len(server.seen) <= 2 else new, ""))
        with pytest.raises(StreamerError, match="replaced while it was read"):
            read(size=self.SIZE)

    @pytest.mark.servers
    def test_two_files_of_one_second_are_told_apart_on_a_real_server(
        self, nginx, www, directory, use, no_aborts
    ):
        """nginx makes ETags of the second and the size. The limit keeps most of the file unread
        until somebody takes its tensors."""
        use({**ONE_BY_ONE, "RUNAI_STREAMER_MEMORY_LIMIT": str(8 << 20)})
        (www / directory).mkdir()
        file, second = www / directory / "m.safetensors", time.time() + 60
        file.write_bytes(save(OLD))
        os.utime(file, (second, second))
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([f"{nginx.url}/{directory}/m.safetensors"])
            with file.open("r+b") as out:
                out.write(save(NEW))
            os.utime(file, (second, second))
            with pytest.raises(StreamerError, match="replaced while it was read"):
                list(streamer.get_tensors())
