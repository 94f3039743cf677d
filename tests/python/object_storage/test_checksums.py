"""Checksums that stores keep of whole objects."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
import torch

from runai_model_streamer import FileChunks, FileStreamer, StreamerError, pull_files
from tests.python.object_storage.canned_s3 import error, listed, read, serve
from tests.support.models import check_same, load, make_model, save
from tests.support.servers.canned import Answer, Canned, Seen, ranged

MODEL = make_model(12)
DATA = save(MODEL)
DAMAGED = DATA[:-1000] + bytes([DATA[-1000] ^ 1]) + DATA[-999:]
ALL = {"RUNAI_STREAMER_VERIFY_CHECKSUMS": "1"}
PATH = "s3://bucket/m.safetensors"


def reflected_crc(data: bytes, polynomial: int, bits: int) -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    crc = ones = (1 << bits) - 1
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
    return (crc ^ ones).to_bytes(bits // 8, "big")


def crc64nvme(data: bytes) -> str:
    return base64.b64encode(reflected_crc(data, 0x9A6C9329AC4BC9B5, 64)).decode()


def crc32c(data: bytes) -> str:
    return base64.b64encode(reflected_crc(data, 0x82F63B78, 32)).decode()


CRC64, CRC32C = crc64nvme(DATA), crc32c(DATA)
CRC64_OF_ZEROS = "EpqZXeXliyc="  # of 64 MiB
FULL = {"x-amz-checksum-type": "FULL_OBJECT"}
KINDS = {
    "crc64nvme": {"x-amz-checksum-crc64nvme": CRC64, **FULL},
    "crc32c": {"x-amz-checksum-crc32c": CRC32C, **FULL},
    "both": {"x-amz-checksum-crc32c": CRC32C, "x-amz-checksum-crc64nvme": CRC64, **FULL},
    "no type": {"x-amz-checksum-crc64nvme": CRC64},
}


def store(headers: dict[str, str], data: bytes = DATA):
    """S3 that tells `headers` of an object to who asks for them as S3 wants to be asked."""

    def handler(seen: Seen) -> Answer:
        if seen.method == "HEAD":
            assert seen.headers["x-amz-checksum-mode"] == "ENABLED"
            assert seen.headers["if-match"] == '"1"'
            return Answer(200, {"ETag": '"1"', "Content-Length": str(len(data)), **headers})
        if "list-type" in seen.path:
            return listed({"m.safetensors": len(data)})
        return serve(seen, data)

    return handler


def heads(server: Canned) -> int:
    return sum(seen.method == "HEAD" for seen in server.seen)


class TestS3:
    @pytest.mark.parametrize("kind", KINDS)
    def test_bytes_are_compared(self, canned, use, kind):
        server = canned(store(KINDS[kind]))
        use(ALL)
        check_same(MODEL, load(PATH))
        assert heads(server) == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_mismatch_names_the_object_and_the_range(self, canned, use, tmp_path, kind):
        canned(store(KINDS[kind], DAMAGED))
        use(ALL)
        with pytest.raises(StreamerError, match="checksum") as caught:
            load(PATH)
        assert caught.value.path == PATH
        assert (caught.value.code, caught.value.offset) == ("io", 0)
        assert f"bytes 0 to {len(DATA)}" in str(caught.value)
        with pytest.raises(StreamerError, match="checksum"):
            pull_files("s3://bucket", str(tmp_path))
        assert not list(tmp_path.rglob("*.safetensors"))
        use({"RUNAI_STREAMER_VERIFY_CHECKSUMS": "0"})
        assert len(load(PATH)) == len(MODEL)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"x-amz-checksum-crc64nvme": "bm9wZQ==", **FULL},
            {"x-amz-checksum-crc64nvme": crc64nvme(b"")[:-1] + "-2"},
            {"x-amz-checksum-crc32c": crc32c(b"") + "-3", "x-amz-checksum-type": "COMPOSITE"},
            {"x-amz-checksum-crc32c": crc32c(b""), "x-amz-checksum-type": "COMPOSITE"},
        ],
        ids=["none", "too short", "of parts", "of parts, told", "composite"],
    )
    def test_what_is_not_of_the_whole_object_is_not_compared(self, canned, use, headers):
        canned(store(headers))
        use(ALL)
        check_same(MODEL, load(PATH))

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 412, 500, 503])
    def test_a_server_that_does_not_tell(self, canned, use, status):
        tell = store({})
        server = canned(lambda seen: error(status, "None") if seen.method == "HEAD" else tell(seen))
        use(ALL)
        check_same(MODEL, load(PATH))
        assert heads(server) == 1

    def test_an_object_that_comes_with_its_header(self, canned, use):
        tiny = save({"t": torch.arange(8.0)})
        for data, good in ((tiny, True), (tiny[:-1] + bytes([tiny[-1] ^ 1]), False)):
            canned(store({"x-amz-checksum-crc64nvme": crc64nvme(tiny), **FULL}, data))
            use(ALL)
            if good:
                load(PATH)
                continue
            with pytest.raises(StreamerError, match="checksum"):
                load(PATH)

    @pytest.mark.parametrize("settings", [{}, ALL])
    def test_what_comes_with_a_part_is_of_the_part(self, canned, use, settings):
        whole = store({})
        part = {"x-amz-checksum-crc64nvme": crc64nvme(b"part"), **FULL}

        def handler(seen: Seen) -> Answer:
            answer = whole(seen)
            if seen.method == "GET":
                answer.headers |= part
            return answer

        canned(handler)
        use(settings)
        check_same(MODEL, load(PATH))

    def test_a_part_is_not_compared(self, canned, use):
        canned(store(KINDS["crc64nvme"], DAMAGED))
        use(ALL)
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(0, PATH, 0, [len(DATA) - 4096])])
            (chunk,) = streamer.get_chunks()
        assert chunk[2].numpy().tobytes() == DATA[: len(DATA) - 4096]

    def test_stats_tell_what_was_compared(self, canned, use):
        from runai_model_streamer import SafetensorsStreamer

        canned(store(KINDS["crc64nvme"]))
        use(ALL)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([PATH])
            for _ in streamer.get_tensors():
                pass
            assert streamer.stats().notes["checksums"].startswith("1 ")


class TestByDefault:
    """A checksum is requested if the cost is small."""

    LARGE = 64 << 20

    def serve(self, size: int, damaged: bool, late: float):
        """Zeros; if they are `damaged`, one byte differs."""
        whole = bytearray(size)
        headers = {"x-amz-checksum-crc64nvme": CRC64_OF_ZEROS, **FULL}
        if damaged:
            whole[-1] = 1
        answer = store(headers, bytes(whole))

        def handler(seen: Seen) -> Answer:
            time.sleep(late)
            return answer(seen)

        return handler

    @pytest.mark.parametrize("damaged", [False, True])
    def test_a_large_object_of_a_distant_store_is_compared(self, canned, damaged):
        server = canned(self.serve(self.LARGE, damaged, late=0.006))
        if damaged:
            with pytest.raises(StreamerError, match="checksum"):
                read(size=self.LARGE)
        else:
            read(size=self.LARGE)
        assert heads(server) == 1

    def test_a_setting_compares_nothing(self, canned, use):
        use({"RUNAI_STREAMER_VERIFY_CHECKSUMS": "0"})
        server = canned(self.serve(self.LARGE, True, late=0.006))
        read(size=self.LARGE)
        assert heads(server) == 0

    def test_a_small_object_is_not_asked_for(self, canned):
        server = canned(self.serve(1 << 20, True, late=0.006))
        read(size=1 << 20)
        assert heads(server) == 0


class TestAzure:
    """The service keeps the MD5 that the uploader gave, which only a whole read can show."""

    def store(self, data: bytes, told: bytes):
        digest = base64.b64encode(hashlib.md5(told).digest()).decode()
        headers = {"x-ms-blob-content-md5": digest}
        return lambda seen: ranged(seen, data, **headers)

    @pytest.mark.parametrize("damaged", [False, True])
    def test_what_is_read_whole_is_compared(self, use, damaged):
        data = bytes(range(256)) * 64
        with Canned(self.store(data, data[:-1] + b"?" if damaged else data)) as server:
            use(
                {
                    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=a2V5;"
                    f"BlobEndpoint={server.url}/a"
                }
            )
            with FileStreamer() as streamer:
                streamer.stream_files([FileChunks(0, "az://c/b", 0, [len(data)])])
                if damaged:
                    with pytest.raises(StreamerError, match="checksum"):
                        list(streamer.get_chunks())
                else:
                    list(streamer.get_chunks())


def test_every_storage_has_the_right_bytes(storage, use):
    """Whatever a real server tells of its checksums, and asks for."""
    storage.put("checked/m.safetensors", DATA)
    storage.put("checked/small", b"0123456789")
    use({**storage.env, **ALL})
    check_same(MODEL, load(f"{storage.uri}/checked/m.safetensors"))
