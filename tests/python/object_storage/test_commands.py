"""Commands, verification, progress and the log over every storage."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runai_model_streamer import (
    SafetensorsStreamer,
    StreamerDigestError,
    StreamerError,
    _logging,
    list_files,
)
from runai_model_streamer._cli.app import app
from runai_model_streamer._storage.pull import pull_objects
from runai_model_streamer._tools.inspection import inspect_checkpoint
from tests.python.object_storage.canned_s3 import listed
from tests.support.models import load, make_model, save
from tests.support.servers.canned import Answer, Seen, ranged

SHARED_DIRECTORY = True
MODEL = save(make_model(3, 4))
NAME = "model.safetensors"


@pytest.fixture
def uri(storage, use) -> str:
    """A directory with a model, its manifest and one more file."""
    digest = hashlib.sha256(MODEL).hexdigest()
    storage.put(NAME, MODEL)
    storage.put("config.json", b"{}")
    storage.put("SHA256SUMS", f"{digest}  {NAME}\n".encode())
    use(storage.env)
    return storage.uri


def document(name: str, *arguments: object, code: int = 0) -> dict:
    result = CliRunner().invoke(app, [name, "--json", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_what_commands_find(uri: str, storage, tmp_path: Path) -> None:
    listed = {one["path"]: one for one in document("ls", uri)["objects"]}
    model = listed[f"{uri}/{NAME}"]
    if storage.name != "web":  # its lists round sizes
        assert model["size"] == len(MODEL)
    assert document("ls", f"{uri}/{NAME}")["count"] == 1
    inspected = document("inspect", uri)
    assert (inspected["tensors"], inspected["problems"]) == (4, [])
    document("pull", uri, tmp_path / "copy", "--allow", "*.safetensors")
    assert (tmp_path / "copy" / NAME).read_bytes() == MODEL
    assert document("diff", uri, tmp_path / "copy")["same"] == 4
    verified = document("verify", uri)
    assert verified["good"] is True
    results = {one["name"]: bool(one["expected"]) for one in verified["files"]}
    assert results[NAME] is True


def test_loads_are_verified(uri: str, storage, tmp_path: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"], verify="auto")
        assert len(list(streamer.get_tensors())) == 4
        assert "1 files have the SHA-256" in streamer.stats().notes["verify"]
    with pytest.raises(StreamerDigestError):
        load(f"{uri}/{NAME}", verify={NAME: "0" * 64})


def test_errors_name_the_endpoint(uri: str, storage) -> None:
    for path in (f"{uri}/no.safetensors", f"{uri}-no/x/no.safetensors"):
        with pytest.raises(StreamerError) as caught:
            load(path)
        assert caught.value.endpoint is not None
        address, _, origin = caught.value.endpoint.partition(" (")
        assert address.startswith("http://127.0.0.1:")
        assert origin
        assert f"endpoint: {caught.value.endpoint}" in str(caught.value)
        assert caught.value.hint
    error = document("inspect", f"{uri}/no.safetensors", code=3)["error"]
    assert error["endpoint"] == caught.value.endpoint


def test_retries_are_logged(uri: str, storage, use, caplog, monkeypatch) -> None:
    monkeypatch.setattr(_logging.logger, "_warned_at", float("-inf"))
    use(storage.proxied)
    storage.nginx.fault("status", status=500, body="", first=3)
    with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
        assert len(load(f"{storage.uri}/{NAME}")) == 4
    told = [one for one in caplog.records if "attempt" in one.message]
    assert {one.levelno for one in told} == {logging.DEBUG, logging.WARNING}
    warned = [one.message for one in told if one.levelno == logging.WARNING]
    assert "HTTP 500" in warned[0]
    assert "endpoint: http://127.0.0.1:" in warned[0]
    debug = "\n".join(one.message for one in caplog.records)
    assert "endpoint http://127.0.0.1:" in debug
    assert "requests" in debug
    for secret in storage.secrets:
        assert secret not in debug


class TestTheHub:
    def test_it_tells_the_digests_of_large_files(self, hf_storage, use) -> None:
        large = save(make_model(3, 2, seed=5))
        hf_storage.put("large.safetensors", large)
        use(hf_storage.env)
        path = f"{hf_storage.uri}/large.safetensors"
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path], verify="auto")
            list(streamer.get_tensors())
            assert "that the hub says" in streamer.stats().notes["verify"]

    def test_a_file_that_is_another_one(self, hf_storage, use, shared_hub, monkeypatch) -> None:
        hf_storage.put("other.safetensors", save(make_model(3, 2, seed=6)))
        use(hf_storage.env)
        stored = shared_hub._stored

        def damaged(seen) -> Answer:
            answer = stored(seen)
            if answer.body and len(answer.body) > 1000:
                answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])
            return answer

        monkeypatch.setattr(shared_hub.store, "handler", damaged)
        with pytest.raises(StreamerDigestError):
            load(f"{hf_storage.uri}/other.safetensors", verify="auto")


def test_progress_of_a_pull(s3_storage, use, tmp_path: Path) -> None:
    """It counts what was there before."""
    data = bytes(20 << 20)
    s3_storage.put("progress/x.bin", data)
    s3_storage.put("progress/y.bin", b"1234")
    use(s3_storage.env)
    seen: list[tuple[int, int]] = []
    uri = f"{s3_storage.uri}/progress"
    pull_objects(uri, str(tmp_path), progress=lambda done, total: seen.append((done, total)))
    total = len(data) + 4
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert sum(size for _, size in list_files(uri)) == total


def test_headers_are_asked_for_at_once(canned, no_aborts) -> None:
    """Each of 16 requests is answered when all of them have come; there is one for each file."""
    shards = {f"m/model-{n:05}-of-00016.safetensors": save(make_model(1, 1)) for n in range(1, 17)}
    barrier = threading.Barrier(16)

    def answer(seen: Seen) -> Answer:
        if "list-type" in seen.path:
            return listed({key: len(data) for key, data in shards.items()})
        barrier.wait(60)
        key = seen.path.partition("/bucket/")[2]
        return ranged(seen, shards[key])

    server = canned(answer)
    found = inspect_checkpoint("s3://bucket/m")
    assert len(found.shards) == 16
    assert {problem.kind for problem in found.problems} == {"duplicate"}
    reads = [seen for seen in server.seen if "range" in seen.headers]
    assert len(reads) == 16
