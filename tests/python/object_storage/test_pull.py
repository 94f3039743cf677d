"""Copying objects to files, over every protocol."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import stat

import pytest

import runai_model_streamer
from runai_model_streamer import ObjectStorageModel, StreamerError, pull_files
from tests.support.models import make_model, save

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
FILES = {
    "config.json": b"{}",
    "tokenizer/vocab.json": b"[1, 2]",
    "tokenizer.model": b"",
    "model-1.safetensors": save(make_model(11)),
    "notes with space.txt": b"text",
    "ünï/100%25+a&b=c;d #1.txt": b"odd",
}


@pytest.fixture
def source(storage, use):
    for name, data in FILES.items():
        storage.put(f"model/{name}", data)
    use(storage.env)
    return f"{storage.uri}/model"


def files_below(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def key_of(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    levels = 2 if scheme == "hf" else 1  # a repository's name has two parts
    return rest.split("/", levels)[levels]


@pytest.mark.parametrize("slash", ["", "/"])
def test_all_objects_below_the_prefix_are_copied(source, tmp_path, slash):
    assert pull_files(source + slash, str(tmp_path / "out")) is None
    assert files_below(tmp_path / "out") == FILES


def test_patterns_are_for_the_whole_key(source, tmp_path):
    def names(allow=None, ignore=None) -> set[str]:
        out = tmp_path / f"{allow}{ignore}".replace("/", "-")
        out.mkdir()
        pull_files(source, out, allow, ignore)
        return set(files_below(out))

    jsons = {"config.json", "tokenizer/vocab.json"}
    assert names(["*.json"]) == jsons
    assert names(["*.json", "*.model"]) == jsons | {"tokenizer.model"}
    assert names(None, ["*.safetensors", "*.txt"]) == jsons | {"tokenizer.model"}
    assert names(["*.json"], ["*/tokenizer/*"]) == {"config.json"}
    assert names(["config.json"]) == set()  # the key is longer
    assert names([f"{key_of(source)}/config.json"]) == {"config.json"}
    assert names(["*.nothing"]) == set()


def test_objects_are_copied_over_several_connections(storage, source, use, no_aborts, tmp_path):
    trace = tmp_path / "trace"
    use({**storage.proxied, "RUNAI_STREAMER_CONCURRENCY": "3"})
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})
    storage.nginx.fault("delay", ms=100, match=storage.read_match)
    pull_files(source, str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == FILES
    connections = set(re.findall(r"range=bytes=.* connection=(\d+)", trace.read_text()))
    assert storage.hosts < len(connections) <= 3 * storage.hosts


def test_a_pull_replaces_files_of_its_names_and_keeps_others(source, tmp_path):
    (tmp_path / "config.json").write_text("old and longer")
    (tmp_path / "mine").write_text("kept")
    pull_files(source, str(tmp_path), ["*.json"])
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "mine").read_text() == "kept"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o666 & ~umask


def test_a_pull_of_a_missing_directory_writes_nothing(storage, use, tmp_path):
    use(storage.env)
    if not storage.knows_directories:
        with pytest.raises(FileNotFoundError):
            pull_files(f"{storage.uri}/none", str(tmp_path / "out"))
    else:
        pull_files(f"{storage.uri}/none", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not files_below(tmp_path / "out")


def test_names_that_lead_out_are_refused(tmp_path, monkeypatch):
    listed = ["s3://b/m/../../evil", "s3://b/m/a/../../../evil", "s3://b/m/.."]
    for path in listed:
        monkeypatch.setattr(
            "runai_model_streamer._storage.pull.list_objects", lambda *_, p=path: [(p, 4, "")]
        )
        with pytest.raises(ValueError, match="outside"):
            pull_files("s3://b/m", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_links_that_lead_out_are_refused(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    monkeypatch.setattr(
        "runai_model_streamer._storage.pull.list_objects",
        lambda *_: [("s3://b/m/link/evil", 4, "")],
    )
    with pytest.raises(ValueError, match="link"):
        pull_files("s3://b/m", str(tmp_path / "out"))


@pytest.mark.parametrize("names", [("a", "a/b/c"), ("a/b/c", "a")])
def test_a_name_of_a_file_and_of_a_directory_is_refused(tmp_path, monkeypatch, names):
    monkeypatch.setattr(
        "runai_model_streamer._storage.pull.list_objects",
        lambda *_: [(f"s3://b/m/{name}", 4, "") for name in names],
    )
    with pytest.raises(StreamerError, match="directory and a file"):
        pull_files("s3://b/m", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_file_that_can_not_be_written(source, tmp_path):
    """A directory stands where one of the files belongs: nothing half-written is left beside it."""
    out = tmp_path / "out"
    (out / "config.json").mkdir(parents=True)
    with pytest.raises(OSError, match="can't be written to") as caught:
        pull_files(source, str(out), ["*/config.json"])
    assert isinstance(caught.value, StreamerError)
    assert caught.value.errno == errno.EISDIR
    assert list(out.iterdir()) == [out / "config.json"]


def test_a_local_path_is_refused(tmp_path):
    with pytest.raises(NotImplementedError):
        pull_files(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="local"):
        ObjectStorageModel(model_path=str(tmp_path), dst=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.lock").exists()


class TestObjectStorageModel:
    def test_the_calls_of_sglang_work(self, source, tmp_path):
        target = tmp_path / "cache"
        model = ObjectStorageModel(model_path=source, dst=str(target))
        assert target.is_dir()
        model.pull_files(None, ["*.safetensors", "*.txt"])
        assert not (target / ".runai_complete").exists()
        model.__exit__(None, None, None)
        assert model.dir == str(target)
        assert (target / ".runai_complete").exists()
        assert set(files_below(target)) == {
            ".runai_complete",
            "config.json",
            "tokenizer/vocab.json",
            "tokenizer.model",
        }

    def test_a_complete_directory_is_left_alone(self, source, tmp_path):
        with ObjectStorageModel(source, tmp_path / "cache") as model:
            model.pull_files(["*.json"])
        (tmp_path / "cache" / "config.json").write_text("mine")
        with ObjectStorageModel(source, tmp_path / "cache") as model:
            model.pull_files(["*.json"])
        assert (tmp_path / "cache" / "config.json").read_text() == "mine"

    def test_an_unfinished_directory_is_emptied(self, source, tmp_path):
        target = tmp_path / "cache"
        with pytest.raises(KeyError), ObjectStorageModel(source, target) as model:
            model.pull_files(["*.json"])
            raise KeyError
        assert not (target / ".runai_complete").exists()
        (target / "stale").write_text("x")
        with ObjectStorageModel(source, target) as model:
            assert not (target / "stale").exists()
            model.pull_files(["*.json"])

    def test_an_object_with_the_name_of_the_mark(self, source, tmp_path, monkeypatch):
        """It would say that a directory is complete."""
        listed = [(f"{source}/.runai_complete", 1, "")]
        monkeypatch.setattr("runai_model_streamer._storage.pull.list_objects", lambda *_: listed)
        with pytest.raises(RuntimeError, match="no files"):
            with ObjectStorageModel(source, tmp_path / "cache") as model:
                model.pull_files()

    def test_a_model_without_files_is_an_error_and_can_be_tried_again(self, source, tmp_path):
        with pytest.raises(RuntimeError, match="no files"):
            with ObjectStorageModel(source, tmp_path / "cache") as model:
                model.pull_files(["*.nothing"])
        assert not (tmp_path / "cache" / ".runai_complete").exists()
        with ObjectStorageModel(source, tmp_path / "cache") as model:
            model.pull_files(["*.json"])

    def test_processes_take_turns(self, source, tmp_path):
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        workers = [
            context.Process(target=_pull_once, args=(source, str(tmp_path / "cache"), results))
            for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=240) for _ in workers]
        for worker in workers:
            worker.join(timeout=240)
            assert worker.exitcode == 0
        assert sorted(outcomes) == ["copied", "there", "there", "there"]


def _pull_once(source, target, results):
    model = ObjectStorageModel(model_path=source, dst=target)
    there = os.path.exists(os.path.join(target, ".runai_complete"))
    model.pull_files(["*.json"])
    model.__exit__(None, None, None)
    results.put("there" if there else "copied")


def test_a_forked_child_pulls(source, tmp_path):
    pull_files(source, str(tmp_path / "parent"), ["*.json"])
    context = multiprocessing.get_context("fork")
    child = context.Process(target=pull_files, args=(source, str(tmp_path / "child"), ["*.json"]))
    child.start()
    child.join(timeout=240)
    assert child.exitcode == 0
    assert files_below(tmp_path / "child") == files_below(tmp_path / "parent")


def test_an_object_that_is_gone(storage, source, use, tmp_path):
    use(storage.proxied)
    storage.nginx.fault("status", status=404, body="", match="vocab")
    with pytest.raises((StreamerError, FileNotFoundError)):
        runai_model_streamer.pull_files(source, str(tmp_path / "out"), ["*.json"])
    # Complete or absent, and nothing half-written.
    found = files_below(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert found.items() <= {"config.json": b"{}"}.items()
