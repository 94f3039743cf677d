"""The directory of an ObjectStorageModel: what is never removed, what a crash leaves, and marks."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import sys
import urllib.parse
from pathlib import Path

import pytest

from runai_model_streamer import ObjectStorageModel, StreamerError, pull_files
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._storage import model_directory
from tests.python.object_storage.canned_s3 import listed, serve
from tests.support.servers.canned import Answer

MODELS = {
    "a": {"config.json": b"A", "sub/tokenizer.model": b"A" * 1000, "vocab.txt": b""},
    "b": {"config.json": b"B", "sub/other.json": b"B" * 1000},
}


@pytest.fixture
def store(canned):
    """A bucket with one directory for each of MODELS; store.seen lists the requests."""

    def answer(seen):
        path, _, query = seen.path.partition("?")
        if "list-type=2" in query:
            prefix = urllib.parse.parse_qs(query).get("prefix", [""])[0]
            sizes = {f"{m}/{key}": len(data) for m in MODELS for key, data in MODELS[m].items()}
            return listed({key: size for key, size in sizes.items() if key.startswith(prefix)})
        name, _, key = path.removeprefix("/bucket/").partition("/")
        data = MODELS[name][key]
        return Answer(416) if not data and "range" in seen.headers else serve(seen, data)

    return canned(answer)


def files(directory: Path) -> dict[str, bytes]:
    """What is in a directory, marks excepted."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in model_directory.MARKS
    }


def fill(name: str, directory: Path, *choices) -> None:
    with ObjectStorageModel(f"s3://bucket/{name}", directory) as model:
        for allow, ignore in choices or [(None, None)]:
            model.pull_files(allow, ignore)


def snapshot(root: Path) -> list[tuple[str, str, bytes]]:
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found.append((str(path), "link", os.readlink(path).encode()))
        else:
            found.append((str(path), "dir" if path.is_dir() else "file", b""))
            if path.is_file():
                found[-1] = (*found[-1][:2], path.read_bytes())
    return found


@pytest.mark.parametrize("dst", ["", " ", "/", "//", ".", "./", "..", "../..", "link/.."])
def test_destinations_that_nobody_means(tmp_path, monkeypatch, dst):
    deep = tmp_path / "work" / "deep"
    (deep / "below").mkdir(parents=True)
    (deep / "mine").write_text("mine")
    (deep / "link").symlink_to("below")  # link/.. is the working directory
    monkeypatch.chdir(deep)
    before = snapshot(tmp_path)

    def refuse(*arguments, **_):
        pytest.fail(f"removes or makes {arguments}")

    with monkeypatch.context() as context:
        for name in ("unlink", "rmdir", "remove", "rename", "replace", "mkdir", "makedirs"):
            context.setattr(os, name, refuse)
        context.setattr(shutil, "rmtree", refuse)
        for given in (dst, Path(dst)):
            with pytest.raises(RunaiStreamerInvalidInputException, match="can't be used"):
                ObjectStorageModel("s3://bucket/a", given)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("which", ["home", "above home", "cwd", "mount", "file"])
def test_destinations_that_belong_to_others_are_refused(tmp_path, monkeypatch, which):
    """Even while they are empty."""
    target = tmp_path / "target"
    inside = target / "inside"
    if which == "file":
        target.write_text("mine")
    elif which == "above home":
        inside.mkdir(parents=True)
        monkeypatch.setenv("HOME", str(inside))
    else:
        target.mkdir()
    if which == "home":
        (tmp_path / "link").symlink_to(target)
        monkeypatch.setenv("HOME", str(tmp_path / "link"))
    if which == "cwd":
        monkeypatch.chdir(target)
    if which == "mount":
        monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(target))
    before = snapshot(tmp_path)
    with pytest.raises(RunaiStreamerInvalidInputException, match="can't be used"):
        ObjectStorageModel("s3://bucket/a", target)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("through_a_link", [False, True])
@pytest.mark.parametrize("content", ["file", "hidden", "directory", "link", "dangling", "pulled"])
def test_files_of_others_stay(store, tmp_path, content, through_a_link):
    target = tmp_path / "models"
    target.mkdir()
    if content == "directory":
        (target / "other").mkdir()
    elif content == "pulled":
        pull_files("s3://bucket/b", target)
    elif content in ("link", "dangling"):
        (tmp_path / "elsewhere").write_text("mine")
        (target / "x").symlink_to(tmp_path / ("elsewhere" if content == "link" else "none"))
    else:
        (target / (".x" if content == "hidden" else "x")).write_text("mine")
    dst = target
    if through_a_link:
        dst = tmp_path / "way"
        dst.symlink_to(target)
    before = snapshot(tmp_path)
    with pytest.raises(RunaiStreamerInvalidInputException, match="did not put there") as caught:
        ObjectStorageModel("s3://bucket/a", dst)
    assert sorted(os.listdir(target))[0] in str(caught.value)
    assert snapshot(tmp_path) == before


def test_files_that_come_meanwhile_stay(store, tmp_path):
    """Between making the model and pulling."""
    model = ObjectStorageModel("s3://bucket/a", tmp_path / "m")
    (tmp_path / "m" / "mine").write_text("mine")
    with pytest.raises(RunaiStreamerInvalidInputException, match="did not put there"):
        model.pull_files()
    model.__exit__(KeyError, KeyError(), None)
    assert (tmp_path / "m" / "mine").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["home", "m", "m.lock"]


def test_an_empty_directory_is_filled(store, tmp_path):
    (tmp_path / "m").mkdir(mode=0o711)
    (tmp_path / "way").symlink_to("m")
    with ObjectStorageModel("s3://bucket/a", str(tmp_path / "way") + "/") as model:
        model.pull_files()
        assert files(tmp_path / "m") == MODELS["a"]  # visible before the end
        assert not (tmp_path / "m" / ".runai_complete").exists()
    assert (tmp_path / "way").is_symlink()
    assert sorted(os.listdir(tmp_path / "way")) == sorted(
        [".runai_complete", "config.json", "sub", "vocab.txt"]
    )
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o711


def test_a_former_copy_stays_until_the_new_one_is_there(store, tmp_path, use):
    fill("a", tmp_path / "m")
    store.handler, handler = (lambda seen: Answer(403)), store.handler
    with pytest.raises(StreamerError):
        fill("b", tmp_path / "m")
    assert files(tmp_path / "m") == MODELS["a"]
    store.handler = handler
    fill("b", tmp_path / "m")
    assert files(tmp_path / "m") == MODELS["b"]
    with pytest.raises(RuntimeError, match="no files"):
        fill("none", tmp_path / "m")
    assert files(tmp_path / "m") == MODELS["b"]
    assert sorted(os.listdir(tmp_path)) == ["home", "m", "m.lock"]


class TestMarks:
    def test_the_same_again_asks_nobody(self, store, tmp_path):
        fill("a", tmp_path / "m", (["*.json", "*.txt"], ["*x"]))
        asked = len(store.seen)
        for allow in (["*.json", "*.txt"], ("*.txt", "*.json")):
            fill("a", tmp_path / "m", (allow, ["*x"]))
            fill("a/", tmp_path / "m", (allow, ["*x"]))
        with ObjectStorageModel("s3://bucket/a", tmp_path / "m"):
            pass
        assert len(store.seen) == asked

    def test_other_patterns_are_added(self, store, tmp_path):
        fill("a", tmp_path / "m", (["*.json"], None))
        fill("a", tmp_path / "m", (["*.model"], None))
        expected = {k: v for k, v in MODELS["a"].items() if k != "vocab.txt"}
        assert files(tmp_path / "m") == expected
        asked = len(store.seen)
        fill("a", tmp_path / "m", (["*.json"], None), (["*.model"], None))
        assert len(store.seen) == asked
        fill("a", tmp_path / "m", (["*.json"], None), (None, None))
        assert files(tmp_path / "m") == MODELS["a"]

    def test_patterns_without_a_match_count_too(self, store, tmp_path):
        choices = [(["*.nothing"], None), (["*.json"], None), (["*.none"], None)]
        fill("a", tmp_path / "m", *choices)
        asked = len(store.seen)
        fill("a", tmp_path / "m", *choices)
        assert len(store.seen) == asked

    def test_another_source_takes_its_place(self, store, tmp_path):
        fill("a", tmp_path / "m")
        fill("b", tmp_path / "m", (["*config.json"], None))
        assert files(tmp_path / "m") == {"config.json": b"B"}

    @pytest.mark.parametrize("text", ["", "done\n", "[]", '{"source": 1, "patterns": 2}', "{"])
    def test_marks_of_other_versions(self, store, tmp_path, text):
        """They name no source: what they mark is complete."""
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / ".runai_complete").write_text(text)
        (tmp_path / "m" / "config.json").write_text("old")
        fill("b", tmp_path / "m")
        assert files(tmp_path / "m") == {"config.json": b"old"}
        assert not store.seen

    def test_a_query_that_grants_access_is_not_in_the_mark(self, tmp_path):
        source = "https://h/model/?sig=SECRET"
        mark = model_directory.mark_of(source, [(None, ["*.bin"])])
        (tmp_path / "m").mkdir()
        model_directory.write_mark(str(tmp_path / "m"), mark)
        assert "SECRET" not in (tmp_path / "m" / ".runai_complete").read_text()
        found = model_directory.read_mark(str(tmp_path / "m"))
        assert found == mark
        assert found.is_of("https://h/model/?sig=OTHER")
        assert not found.is_of("https://h/model2/?sig=SECRET")
        assert found.has((None, ["*.bin"])) and not found.has((None, None))
        assert not model_directory.mark_of("s3://b/what?x", []).is_of("s3://b/what?y")

    def test_it_is_json_for_people(self, store, tmp_path):
        fill("a", tmp_path / "m", (["*.json"], None))
        mark = json.loads((tmp_path / "m" / ".runai_complete").read_text())
        assert mark == {"source": "s3://bucket/a", "patterns": [[["*.json"], None]]}


class TestSystem:
    def test_a_complete_copy_is_used_without_writing(self, store, tmp_path, monkeypatch):
        """On a read-only volume, or as another user."""
        fill("a", tmp_path / "m")
        (tmp_path / "m.lock").unlink()
        before = snapshot(tmp_path)
        real = os.open

        def read_only(path, flags, *more, **names):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return real(path, flags, *more, **names)

        monkeypatch.setattr(os, "open", read_only)
        fill("a", tmp_path / "m")
        assert snapshot(tmp_path) == before
        # What is not there can't be copied, and the error is one of ours.
        for name, directory in (("b", "m"), ("a", "n")):
            with pytest.raises(StreamerError, match="can't be written") as caught:
                fill(name, tmp_path / directory)
            assert isinstance(caught.value, OSError)
            assert caught.value.errno == errno.EROFS
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_file_systems_without_locks(self, store, tmp_path, monkeypatch, caplog, number):
        def no_lock(fd, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", no_lock)
        with caplog.at_level(logging.WARNING, "runai_model_streamer"):
            fill("a", tmp_path / "m")
        assert "no locks" in caplog.text
        assert files(tmp_path / "m") == MODELS["a"]
        # Two at once, of the same source and of another.
        one = ObjectStorageModel("s3://bucket/b", tmp_path / "m")
        two = ObjectStorageModel("s3://bucket/b", tmp_path / "m")
        three = ObjectStorageModel("s3://bucket/a", tmp_path / "n")
        four = ObjectStorageModel("s3://bucket/b", tmp_path / "n")
        for model in (one, two, three, four):
            model.pull_files()
        two.__exit__(None, None, None)
        one.__exit__(None, None, None)
        assert files(tmp_path / "m") == MODELS["b"]
        four.__exit__(None, None, None)
        with pytest.raises(StreamerError, match="another process replaced"):
            three.__exit__(None, None, None)
        assert files(tmp_path / "n") == MODELS["b"]

    def test_a_lock_that_fails(self, tmp_path, monkeypatch):
        def failing(fd, operation):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(fcntl, "flock", failing)
        opened = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StreamerError, match="can't be written"):
            ObjectStorageModel("s3://bucket/a", tmp_path / "m")
        assert len(os.listdir("/proc/self/fd")) == opened

    def test_the_lock_of_another_user_is_passed_over(self, store, tmp_path, monkeypatch):
        (tmp_path / "m.lock").write_text("")
        real = os.open

        def foreign(path, flags, *more, **names):
            if str(path).endswith(".lock") and flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, flags, *more, **names)

        monkeypatch.setattr(os, "open", foreign)
        fill("a", tmp_path / "m")
        assert files(tmp_path / "m") == MODELS["a"]

    def test_file_systems_that_can_not_exchange_names(self, store, tmp_path, monkeypatch):
        def unsupported(one, other):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        fill("a", tmp_path / "m")
        monkeypatch.setattr(model_directory, "_exchange", unsupported)
        fill("b", tmp_path / "m")
        assert files(tmp_path / "m") == MODELS["b"]
        assert sorted(os.listdir(tmp_path)) == ["home", "m", "m.lock"]


_OURS = (".part", ".streamer-pull")  # what a pull that is killed leaves in an unfinished copy
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "open", "os.chmod"}
EVENTS |= {"ctypes.dlsym", "fcntl.flock"}


def killed_before(number: int, root: Path, name: str, directory: Path) -> bool:
    """Fills the directory in a child that is killed before its `number`th change of files; whether
    there were fewer."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def hook(event, arguments):
            nonlocal count
            of_path = event not in ("fcntl.flock", "ctypes.dlsym")
            if event not in EVENTS or (of_path and str(root) not in str(arguments[0])):
                return
            if count == number:
                os._exit(9)
            count += 1

        sys.addaudithook(hook)
        status = 1
        try:
            fill(name, directory, (["*.json"], None), (None, None))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("former", ["none", "complete", "unfinished"])
def test_a_crash_anywhere_leaves_a_whole_copy(store, tmp_path, former):
    """The former copy or the new one, never a part that is marked; what follows repairs it."""
    root = tmp_path / "cache"
    for number in range(200):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        (root / "neighbour").write_text("mine")
        (root / "m.partial-notes").mkdir()
        (root / "m.partial-0123456789abcdef").mkdir()
        (root / "m.partial-0123456789abcdef" / "mine").write_text("mine")
        if former == "complete":
            fill("a", root / "m")
        elif former == "unfinished":
            model = ObjectStorageModel("s3://bucket/a", root / "m")
            model.pull_files()
            model.__exit__(KeyError, KeyError(), None)
        finished = killed_before(number, root, "b", root / "m")
        mark = model_directory.read_mark(str(root / "m"))
        if mark is not None:
            assert files(root / "m") == MODELS[mark.source[-1]]
        elif former == "complete":
            whole = {n: d for n, d in files(root / "m").items() if not n.endswith(_OURS)}
            assert whole.items() <= MODELS["b"].items()
            assert (root / "m" / "config.json").read_bytes() == b"B"
        fill("b", root / "m")
        assert files(root / "m") == MODELS["b"]
        left = sorted(os.listdir(root))
        mine = ["m", "m.lock", "m.partial-0123456789abcdef", "m.partial-notes", "neighbour"]
        assert left == mine
        assert (root / "m.partial-0123456789abcdef" / "mine").read_text() == "mine"
        assert os.listdir(root / "m").count(".runai_partial") == 0
        if finished:
            break
    assert finished
    assert number > 15
