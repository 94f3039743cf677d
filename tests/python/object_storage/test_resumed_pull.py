"""Pulls that were killed, and what the next one makes of what they left."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading

import pytest

from runai_model_streamer import ObjectStorageModel, StreamerError, pull_files
from tests.support.servers.canned import Answer, Canned, ranged

PART = 8 << 20
BIG = bytes(range(256)) * ((6 * PART + 4096) // 256)
SMALL = b"{}"
PULL = "import sys; from runai_model_streamer import *; "
FILES = PULL + "pull_files(sys.argv[1], sys.argv[2])"
MODEL = PULL + (
    "model = ObjectStorageModel(sys.argv[1], sys.argv[2]); model.__enter__(); model.pull_files()"
)


class Store:
    """Two objects. Once `stop_at` is set, reads of the large one from there on stay unanswered."""

    def __init__(self) -> None:
        self.objects = {"m/a.json": SMALL, "m/b.bin": BIG}
        self.etag, self.stop_at = '"1"', len(BIG)
        self.stopped, self.go_on = threading.Event(), threading.Event()
        self.server = Canned(self.answer)

    def answer(self, seen) -> Answer:
        if "list-type" in seen.path:
            entries = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(data)}</Size></Contents>"
                for key, data in self.objects.items()
            )
            return Answer(200, {}, f"<ListBucketResult>{entries}</ListBucketResult>".encode())
        key = seen.path.partition("/bucket/")[2]
        if key == "m/b.bin" and first_of(seen) >= self.stop_at:
            self.stopped.set()
            self.go_on.wait(60)
        return ranged(seen, self.objects[key], self.etag)


def first_of(seen) -> int:
    found = re.match(r"bytes=(\d+)-", seen.headers.get("range", ""))
    return int(found[1]) if found else 0


@pytest.fixture
def store(use, no_aborts):
    made = Store()
    with made.server:
        use({"AWS_ENDPOINT_URL": made.server.url, "AWS_REGION": "us-east-1"})
        use({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s"})
        use({"RUNAI_STREAMER_CONCURRENCY": "1", "RUNAI_STREAMER_CHUNK_BYTESIZE": str(PART)})
        use({"RUNAI_STREAMER_MEMORY_LIMIT": str(2 * PART)})
        yield made


def kill_after(store: Store, script: str, target: str) -> None:
    """Runs a pull until it asks for what is behind `stop_at`, and kills it."""
    store.stop_at = 4 * PART
    process = subprocess.Popen([sys.executable, "-c", script, "s3://bucket/m", target])
    try:
        assert store.stopped.wait(60)
    finally:
        process.kill()
        process.wait()
        store.stop_at = len(BIG)
        store.go_on.set()
        store.server.seen.clear()


def hidden(directory) -> list[str]:
    return [path.name for path in directory.rglob(".*")]


def repeated(store: Store) -> int:
    """Reads of the large object that the killed pull had made, but for the one that opens it."""
    reads = [seen for seen in store.server.seen if seen.path.endswith("b.bin")]
    return sum(1 for seen in reads[1:] if first_of(seen) < 3 * PART)


def test_a_killed_pull_is_continued(store, tmp_path):
    target = tmp_path / "out"
    kill_after(store, FILES, str(target))
    assert hidden(target)
    pull_files("s3://bucket/m", str(target))
    assert (target / "b.bin").read_bytes() == BIG
    assert (target / "a.json").read_bytes() == SMALL
    assert repeated(store) <= 1
    assert not hidden(target)


def test_a_killed_pull_of_a_model_is_continued(store, tmp_path):
    target = tmp_path / "model"
    kill_after(store, MODEL, str(target))
    with ObjectStorageModel("s3://bucket/m", target) as model:
        model.pull_files()
    assert (target / "b.bin").read_bytes() == BIG
    assert repeated(store) <= 1
    assert hidden(target) == [".runai_complete"]
    assert not list(tmp_path.glob("model.partial-*"))


def test_files_that_are_not_wanted_any_more_go(store, tmp_path):
    target = tmp_path / "model"
    kill_after(store, MODEL, str(target))
    with ObjectStorageModel("s3://bucket/m", target) as model:
        model.pull_files(["*.bin"])
    assert sorted(path.name for path in target.iterdir()) == [".runai_complete", "b.bin"]


def test_another_version_is_pulled_from_its_start(store, tmp_path):
    target = tmp_path / "out"
    kill_after(store, FILES, str(target))
    store.etag, store.objects["m/b.bin"] = '"2"', BIG[::-1]
    pull_files("s3://bucket/m", str(target))
    assert (target / "b.bin").read_bytes() == BIG[::-1]
    assert not hidden(target)


def test_an_object_without_a_version_is_pulled_from_its_start(store, tmp_path):
    store.etag = ""
    target = tmp_path / "out"
    kill_after(store, FILES, str(target))
    pull_files("s3://bucket/m", str(target))
    assert (target / "b.bin").read_bytes() == BIG
    assert repeated(store) > 1
    assert not hidden(target)


def test_a_journal_of_another_boot_is_not_believed(store, tmp_path):
    """After a power loss a file may have its size, and not its bytes."""
    target = tmp_path / "out"
    kill_after(store, FILES, str(target))
    journal = target / ".streamer-pull"
    journal.write_text(re.sub(r'"boot": "[^"]*"', '"boot": "earlier"', journal.read_text()))
    pull_files("s3://bucket/m", str(target))
    assert (target / "b.bin").read_bytes() == BIG
    assert repeated(store) > 1
    assert not hidden(target)


@pytest.mark.parametrize(
    "line", ["", "[]", "{", '{"name": 1}', '{"part": "../x.part"}', "\0\0", '{"boot": 1}']
)
def test_a_broken_journal_does_no_harm(store, tmp_path, line):
    target = tmp_path / "out"
    target.mkdir()
    (tmp_path / "x.part").write_text("not ours")
    entry = '{"name": "b", "path": "p", "version": "v", "size": 1, "part": "../x.part"}'
    (target / ".streamer-pull").write_text(f"{line}\n{entry}\n")
    pull_files("s3://bucket/m", str(target))
    assert (target / "b.bin").read_bytes() == BIG
    assert (tmp_path / "x.part").read_text() == "not ours"
    assert not hidden(target)


def test_small_objects_take_one_request_each_over_the_same_connections(store, tmp_path):
    store.objects = {f"m/{index:03}.json": b"%d" % index for index in range(100)}
    pull_files("s3://bucket/m", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 100
    reads = [seen for seen in store.server.seen if "list-type" not in seen.path]
    assert len(reads) == 100


def test_a_failed_pull_leaves_complete_files_only(store, tmp_path):
    answer = store.server.handler

    def broken(seen):
        return Answer(403) if first_of(seen) >= 2 * PART else answer(seen)

    store.server.handler = broken
    with pytest.raises(StreamerError):
        pull_files("s3://bucket/m", str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]


def test_an_object_with_the_name_of_the_journal_is_an_error(store, tmp_path):
    store.objects["m/.streamer-pull"] = b"x"
    with pytest.raises(ValueError, match="ignore_pattern"):
        pull_files("s3://bucket/m", str(tmp_path / "out"))
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "out").iterdir())
