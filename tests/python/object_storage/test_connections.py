"""To which addresses connections go, and how many files are opened at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from tests.python.object_storage.canned_s3 import serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, save
from tests.support.needs import available
from tests.support.processes import python
from tests.support.servers import process
from tests.support.servers.canned import Answer, Canned, Seen
from tests.support.servers.compiler import build
from tests.support.servers.connect_proxy import ConnectProxy
from tests.support.servers.process import free_port
from tests.support.servers.socks_proxy import SocksProxy

READ = """
import sys
from runai_model_streamer import FileChunks, FileStreamer
with FileStreamer() as streamer:
    streamer.stream_files([FileChunks(0, "s3://bucket/key", 0, [1 << 20] * 96)])
    print(sum(int(chunk[2].sum()) for chunk in streamer.get_chunks()))
"""
LOAD_WITH_DESCRIPTORS = """
import resource, sys
from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
files, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
with SafetensorsStreamer() as streamer:
    streamer.stream_files([f"s3://bucket/m{i}.safetensors" for i in range(files)])
    print(len(dict(streamer.get_tensors())))
"""
# Reads so many objects at once, with the number of descriptors before that in their names.
READ_AT_ONCE = """
import os, sys
from runai_model_streamer import FileChunks, FileStreamer
for number in map(int, sys.argv[1:]):
    os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(number)
    before = len(os.listdir("/proc/self/fd"))
    directory = f"s3://bucket/{os.getpid()}/{before}/{number}"
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(i, f"{directory}/{i}", 0, [1000]) for i in range(number)])
        assert len(list(streamer.get_chunks())) == number
    print(len(os.listdir("/proc/self/fd")) - before, end=" ")
"""
BYTES = bytes([1]) * (96 << 20)


def read_from(port: int, addresses: list[str], **more: str) -> None:
    """Reads BYTES by 16 connections from a host of these addresses."""
    with available("a C++ compiler"):
        names = build(process.HERE / "names.cc", "-shared", "-fPIC")
    env = S3_ENV | {
        "AWS_ENDPOINT_URL": f"http://s3.store.test:{port}",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_CONCURRENCY": "16",
        "LD_PRELOAD": str(names),
        "NAME": "s3.store.test",
        "NAME_ADDRESSES": ",".join(addresses),
    }
    assert python(READ, **(env | more)) == str(len(BYTES))


@contextlib.contextmanager
def serving(addresses: list[str], port: int):
    """A server at each of `addresses`, and how many clients each has had, by their ports."""
    clients: Counter[str] = Counter()
    all_open = threading.Event()

    def at(address: str):
        def handler(seen: Seen) -> Answer:
            clients[address] += 1
            if not seen.headers["range"].startswith("bytes=0-"):
                # Nearly as many as are read at once: all connections are opened.
                if clients.total() >= 12:
                    all_open.set()
                all_open.wait(10)
            return serve(seen, BYTES)

        return handler

    with contextlib.ExitStack() as servers:
        for address in addresses:
            servers.enter_context(Canned(at(address), host=address, port=port))
        yield clients


class TestAddresses:
    def test_connections_go_to_all_of_them(self, tmp_path: Path):
        addresses = [f"127.0.0.{i}" for i in range(2, 10)]
        port, log = free_port(), tmp_path / "asked"
        with serving(addresses, port) as clients:
            read_from(port, addresses, NAME_LOG=str(log))
        assert set(clients) == set(addresses)
        # One answer serves all connections, for some time.
        assert len(log.read_text().split()) <= 2 + 12

    def test_one_where_nobody_listens_is_passed_over(self):
        addresses = [f"127.0.0.{i}" for i in range(2, 6)]
        port = free_port()
        with serving(addresses[1:], port) as clients:
            read_from(port, addresses)
        assert set(clients) == set(addresses[1:])


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy_scheme", ["", "http", "https", "socks4a", "socks5"])
def test_a_connection_has_one_descriptor(scheme, proxy_scheme, certificate, authority):
    """And the process a few more, whatever their number."""
    numbers = [8, 32, 64]
    open_now, most = Counter[int](), Counter[int]()
    all_there = {number: threading.Event() for number in numbers}
    lock = threading.Lock()

    def handler(seen: Seen) -> Answer:
        pid, before, number = map(int, seen.path.partition("bucket/")[2].split("/")[:3])
        with lock:
            open_now[number] += 1
            if open_now[number] == number:
                most[number] = len(os.listdir(f"/proc/{pid}/fd")) - before
                all_there[number].set()
        assert all_there[number].wait(60)
        return serve(seen, BYTES[:1000])

    with contextlib.ExitStack() as servers:
        env = {"AWS_CA_BUNDLE": str(authority.ca)} | S3_ENV | {"RUNAI_STREAMER_HEDGE": "0"}
        of_proxy = certificate if proxy_scheme == "https" else None
        if proxy_scheme.startswith("http") and scheme == "http":  # it gets the requests themselves
            proxy = servers.enter_context(Canned(handler, of_proxy))
            env |= {"AWS_ENDPOINT_URL": "http://s3.store.invalid", "http_proxy": proxy.url}
            env |= {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"}
        else:
            server = servers.enter_context(
                Canned(handler, certificate if scheme == "https" else None)
            )
            env["AWS_ENDPOINT_URL"] = server.url
            hosts = {"127.0.0.1": server.port}
            if proxy_scheme.startswith("socks"):
                socks = servers.enter_context(SocksProxy(hosts))
                env["all_proxy"] = f"{proxy_scheme}://{socks.address}"
            elif proxy_scheme:
                tunnels = servers.enter_context(ConnectProxy(hosts, of_proxy))
                env["https_proxy"] = tunnels.url
        assert python(READ_AT_ONCE, *numbers, **env).split() == ["0"] * len(numbers)
    assert all(most[number] <= number + 8 for number in numbers), most


def test_the_peak_counts_what_tls_holds_where_it_is_used(use, certificate, authority):
    number = 32

    def peak(server_certificate) -> int:
        all_there = threading.Barrier(number)

        def handler(seen: Seen) -> Answer:
            if not all_there.broken:
                with contextlib.suppress(threading.BrokenBarrierError):
                    all_there.wait(60)
                all_there.abort()  # the requests that follow need not be at once
            return serve(seen, BYTES[:1000])

        with Canned(handler, server_certificate) as server:
            use(S3_ENV | {"AWS_ENDPOINT_URL": server.url, "AWS_CA_BUNDLE": str(authority.ca)})
            use({"RUNAI_STREAMER_CONCURRENCY": str(number)})
            paths = [f"s3://bucket/{i}" for i in range(number)]
            with FileStreamer() as streamer:
                streamer.stream_files([FileChunks(i, p, 0, [1000]) for i, p in enumerate(paths)])
                assert len(list(streamer.get_chunks())) == number
                return streamer.stats().peak_memory

    plain, over_tls = peak(None), peak(certificate)
    assert plain <= number * (128 << 10) + (4 << 20)
    assert abs(over_tls - plain - number * (640 << 10)) <= 2 << 20


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("missing", [1 << 20, 4 << 20])
def test_a_tensor_of_almost_the_limit_and_connections_stay_within_it(
    use, certificate, authority, scheme, missing
):
    """Connections have opened many objects before that tensor is known."""
    limit, number = 32 << 20, 64
    sizes = [1 << 20, limit - missing, 1 << 20]
    data = bytes(sum(sizes))
    with Canned(lambda seen: serve(seen, data), certificate if scheme == "https" else None) as s3:
        use(S3_ENV | {"AWS_ENDPOINT_URL": s3.url, "AWS_CA_BUNDLE": str(authority.ca)})
        use({"RUNAI_STREAMER_MEMORY_LIMIT": str(limit), "RUNAI_STREAMER_HEDGE": "0"})
        few = [FileChunks(i, f"s3://bucket/{i}", 0, [1 << 20]) for i in range(number)]
        with FileStreamer() as streamer:
            streamer.stream_files([*few, FileChunks(number, "s3://bucket/large", 0, sizes)])
            for chunk in streamer.get_chunks():
                del chunk
            assert streamer.stats().peak_memory <= limit


@pytest.mark.parametrize("limit", [300_000, 700_000, 1 << 20, 1_100_000, 2 << 20])
def test_small_tensors_and_a_connection_stay_within_a_small_limit(use, limit):
    """Tensors that share a block take no more than a half."""
    sizes = [50_000] * 200
    data = os.urandom(sum(sizes))
    with Canned(lambda seen: serve(seen, data)) as server:
        use(S3_ENV | {"AWS_ENDPOINT_URL": server.url, "RUNAI_STREAMER_MEMORY_LIMIT": str(limit)})
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(0, "s3://bucket/small", 0, sizes)])
            parts = {index: chunk.numpy().tobytes() for _, index, chunk in streamer.get_chunks()}
            stats = streamer.stats()
    assert b"".join(parts[index] for index in range(len(sizes))) == data
    assert stats.peak_memory <= stats.memory_limit <= limit + 4096


def test_two_stores_together_stay_within_the_memory_limit(use):
    """The second has less memory for connections than the first needs threads."""
    limit, number = 32 << 20, 48
    data = bytes(1 << 20)

    def handler(seen: Seen) -> Answer:
        return serve(seen, data)

    with Canned(handler) as server:
        use(S3_ENV | {"AWS_ENDPOINT_URL": server.url, "STORAGE_EMULATOR_HOST": server.url})
        use({"RUNAI_STREAMER_MEMORY_LIMIT": str(limit), "RUNAI_STREAMER_CONCURRENCY": "16"})
        paths = [f"{store}://bucket/{i}" for i in range(number) for store in ("s3", "gs")]
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(i, p, 0, [1 << 20]) for i, p in enumerate(paths)])
            assert len(list(streamer.get_chunks())) == 2 * number
            stats = streamer.stats()
    assert stats.memory_limit == limit
    assert stats.peak_memory <= limit


def model_of(files: int) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    tensors = {f"t{i}": torch.full((512, 32), float(i)) for i in range(files)}
    data = {
        f"/bucket/m{i}.safetensors": save({name: t}) for i, (name, t) in enumerate(tensors.items())
    }
    return data, tensors


class TestOpening:
    def load(self, files: int) -> dict[str, torch.Tensor]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([f"s3://bucket/m{i}.safetensors" for i in range(files)])
            return dict(streamer.get_tensors())

    def test_many_at_once_where_it_is_far(self, canned):
        """All but the first few wait until 25 of them are asked for at once.

        Every other response takes 30 ms: the shortest time shows how far the storage is.
        """
        data, tensors = model_of(60)
        opened, waiting = list[str](), set[str]()
        enough = threading.Event()

        def handler(seen: Seen) -> Answer:
            if seen.headers["range"].startswith("bytes=0-"):
                opened.append(seen.path)
            if len(opened) <= 30 or seen.path not in opened[30:]:
                time.sleep(0.03)
            else:
                waiting.add(seen.path)  # a request that lags is made once more
                if len(waiting) >= 25:
                    enough.set()
                assert enough.wait(60)
            return serve(seen, data[seen.path])

        canned(handler)
        check_same(tensors, self.load(60))
        assert enough.is_set()
        assert len(set(opened)) == 60

    def test_the_first_file_is_read_while_others_are_opened(self, canned):
        data, tensors = model_of(40)
        reading = threading.Event()

        def handler(seen: Seen) -> Answer:
            if not seen.headers["range"].startswith("bytes=0-"):
                reading.set()
            elif seen.path.endswith("/m39.safetensors"):
                assert reading.wait(60)
            return serve(seen, data[seen.path])

        canned(handler)
        check_same(tensors, self.load(40))
        assert reading.is_set()

    def test_a_number_that_is_chosen_is_obeyed(self, canned, use, no_aborts):
        data, tensors = model_of(24)
        lock, now, most = threading.Lock(), [0], [0]

        def handler(seen: Seen) -> Answer:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.02)
            with lock:
                now[0] -= 1
            return serve(seen, data[seen.path])

        canned(handler)
        use({"RUNAI_STREAMER_CONCURRENCY": "3"})
        check_same(tensors, self.load(24))
        assert most[0] <= 3

    def test_an_error_of_a_later_file_ends_the_load(self, canned):
        data, _ = model_of(30)
        del data["/bucket/m17.safetensors"]

        def handler(seen: Seen) -> Answer:
            return serve(seen, data[seen.path]) if seen.path in data else Answer(404)

        canned(handler)
        with pytest.raises(FileNotFoundError, match="m17"):
            self.load(30)

    def test_a_header_that_lags_is_asked_for_again(self, canned, use):
        data, tensors = model_of(3)
        lag = threading.Event()
        asked: Counter[str] = Counter()

        def handler(seen: Seen) -> Answer:
            if seen.headers["range"].startswith("bytes=0-"):
                asked[seen.path] += 1
                if seen.path.endswith("/m1.safetensors") and asked[seen.path] == 1:
                    lag.wait(60)
            return serve(seen, data[seen.path])

        canned(handler)
        use({"RUNAI_STREAMER_LOW_SPEED_SECONDS": "100"})  # it is no stall
        check_same(tensors, self.load(3))
        lag.set()
        assert asked["/bucket/m1.safetensors"] >= 2  # on a busy machine the second one lags, too

    def test_a_low_limit_of_descriptors_is_enough(self, canned):
        data, _ = model_of(60)

        def handler(seen: Seen) -> Answer:
            time.sleep(0.02)
            return serve(seen, data[seen.path])

        server = canned(handler)
        env = S3_ENV | {"AWS_ENDPOINT_URL": server.url}
        assert python(LOAD_WITH_DESCRIPTORS, 60, 128, **env) == "60"
