"""What every protocol has: lists, statistics, a trace, limits, concurrency, identities."""

from __future__ import annotations

import re

import pytest

from runai_model_streamer import (
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
)
from runai_model_streamer._native_api import object_key
from tests.python.object_storage.conftest import STORAGES
from tests.support.models import check_same, make_model, save

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
MODEL = make_model(60, tensors=30)
BYTES = save(MODEL)


@pytest.fixture
def model(storage, use):
    storage.put("model.safetensors", BYTES)
    use(storage.env)
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
    return f"{storage.uri}/model.safetensors"


def load(uri):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([uri])
        check_same(MODEL, dict(streamer.get_tensors()))
        return streamer.stats()


def test_each_scheme_belongs_to_a_storage_of_the_tests():
    with pytest.raises(StreamerError) as caught:
        list_safetensors("unknown://bucket/directory")
    known = set(re.findall(r"(\w+)://", str(caught.value).partition("Known: ")[2]))
    assert known == set().union(*STORAGES.values())


def test_statistics_count_bytes_threads_and_requests(storage, model, use):
    use(storage.proxied)  # which closes no connection of a client that is slow
    use({"RUNAI_STREAMER_CONCURRENCY": "3"})
    stats = load(model)
    size = sum(tensor.numel() for tensor in MODEL.values())
    assert stats.bytes == size
    assert stats.bytes_by_source == {storage.source: size}
    assert set(stats.bytes_by_strategy) == {storage.source}
    assert (stats.retries, stats.threads, stats.concurrency) == (0, 3, 3)
    assert stats.requests >= len(BYTES) // (5 << 20)


def test_the_trace_has_each_read_its_connection_and_no_secret(storage, model, use, tmp_path):
    trace = tmp_path / "trace"
    use(storage.proxied)  # which closes no connection of a client that is slow
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace), "RUNAI_STREAMER_CONCURRENCY": "3"})
    use({"RUNAI_STREAMER_ABORT_STRAGGLERS": "0"})  # a read that is aborted costs a connection
    load(model)
    lines = trace.read_text().splitlines()
    reads = [line for line in lines if re.search(r"range=bytes=\d+-\d+ status=206 ", line)]
    assert len(reads) >= len(BYTES) // (5 << 20)
    assert len(set(re.findall(r"connection=(\d+)", "".join(reads)))) <= 3 * storage.hosts
    for secret in storage.secrets:
        assert secret not in trace.read_text()


def test_concurrency_falls_when_the_server_asks_to_slow_down(storage, model, use):
    """Nothing fixes it, and the server asks to slow down."""
    use(storage.proxied | {"RUNAI_STREAMER_S3_TARGET_GBPS": "2"})  # starts with 5
    match = storage.read_match + ".* bytes=[1-9]"
    storage.nginx.fault("status", status=503, body="", first=4, match=match)
    stats = load(model)
    assert stats.retries == 4
    assert stats.concurrency < 5


def test_memory_stays_within_the_limit(storage, model, use):
    limit = 24 << 20
    use({"RUNAI_STREAMER_MEMORY_LIMIT": str(limit)})
    stats = load(model)
    assert stats.memory_limit == limit
    assert stats.peak_memory <= limit


@pytest.mark.parametrize(("change", "text"), [(-1, "truncated"), (1, "trailing")])
def test_a_header_that_contradicts_the_size_is_an_error(storage, use, change, text):
    """The header's sizes are compared with the object's."""
    small = save(make_model(1))
    storage.put(f"{text}.safetensors", small[:-1] if change < 0 else small + b"x")
    use(storage.env)
    with pytest.raises(ValueError, match=text), SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{storage.uri}/{text}.safetensors"])


def test_an_error_names_the_identity_and_no_secret(storage, model, use):
    with pytest.raises(FileNotFoundError) as caught, SafetensorsStreamer() as streamer:
        streamer.stream_files([model + ".none"])
    error = caught.value
    assert (error.code, error.http_status, error.path) == ("not_found", 404, model + ".none")
    assert storage.identity in (error.identity or "")
    for secret in storage.secrets:
        assert secret not in str(error)


SIZES = {"a.safetensors": 3, "b.safetensors": 1, "deep/c.safetensors": 2, "deep/d.txt": 4}


@pytest.fixture
def listed(storage, use):
    """A directory with objects of SIZES, and (path, size) of each, sorted."""
    for name, size in SIZES.items():
        storage.put(f"lists/{name}", b"x" * size)
    use(storage.env)
    directory = f"{storage.uri}/lists"
    return directory, sorted((f"{directory}/{name}", size) for name, size in SIZES.items())


@pytest.mark.parametrize("slash", ["", "/"])
def test_list_safetensors_finds_the_models_directly_in_a_directory(listed, slash):
    directory, _ = listed
    expected = [f"{directory}/a.safetensors", f"{directory}/b.safetensors"]
    assert list_safetensors(directory + slash) == expected


def test_list_files_finds_every_object_below_a_directory_and_its_size(listed):
    directory, every = listed
    with FileStreamer() as streamer:
        assert streamer.list_files(directory) == every


def test_list_files_that_is_not_recursive_stays_in_the_directory(listed):
    directory, every = listed
    with FileStreamer() as streamer:
        assert streamer.list_files(directory, is_recursive=False) == every[:2]


def test_list_files_selects_whole_keys_by_patterns(listed):
    directory, every = listed
    text = [f"{object_key(directory)}/*.txt"]
    with FileStreamer() as streamer:
        assert streamer.list_files(directory, allow_patterns=text) == [every[3]]
        assert streamer.list_files(directory, ignore_patterns=["*.safetensors"]) == [every[3]]


def test_a_load_to_a_device_copies_each_byte_once(storage, model, standin):
    """Through pinned slots, on the stand-in driver."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([model], device="cuda:0")
        check_same(MODEL, dict(streamer.get_tensors()))
        assert streamer.stats().device == "cuda:0"
    assert standin.counts().copied_bytes == sum(tensor.numel() for tensor in MODEL.values())


def test_a_read_that_lags_is_overtaken(storage, model, use, tmp_path):
    """One connection crawls in the middle of a body: another brings what is missing."""
    use(storage.proxied)
    trace = tmp_path / "trace"
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace), "RUNAI_STREAMER_CONCURRENCY": "2"})
    match = storage.read_match + ".* bytes=[1-9]"
    storage.nginx.fault("rate", bps=400_000, skip=8, first=1, match=match)
    stats = load(model)
    # A busy machine makes others lag.
    assert stats.stragglers >= 1
    assert stats.retries == 0
    found = re.findall(r"range=bytes=(\d+)-(\d+) status=206 bytes=(\d+).*", trace.read_text())
    reads = [tuple(map(int, read)) for read in found]
    cut = [(a, b, n) for a, b, n in reads if b - a + 1 != n]
    assert any(n > 0 for _, _, n in cut)
    asked = [(a, b) for a, b, _ in reads]
    assert all(asked.count((a + n, b)) >= (1 if n > 0 else 2) for a, b, n in cut)
    assert sum(n for _, _, n in reads) < len(BYTES) + (1 << 20)  # nothing twice but headers
