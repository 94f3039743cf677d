"""Bad files, storage that fails, and too little of what the system gives: by each strategy, an
error with its cause, and never a hang or a signal."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError, load_file
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    RunaiStreamerMemoryLimitException,
    StreamerChangedError,
    StreamerNotFoundError,
    StreamerShortReadError,
)
from tests.support.models import MIB, load, same, save_floats
from tests.support.processes import python

from .conftest import Faulty


def test_a_missing_file_is_a_file_not_found_error(strategy: str, tmp_path: Path) -> None:
    path = str(tmp_path / "gone.safetensors")
    with pytest.raises(StreamerNotFoundError) as caught:
        load(path)
    error = caught.value
    assert isinstance(error, ValueError | FileNotFoundError)
    assert (error.code, error.path, error.errno) == ("not_found", path, errno.ENOENT)
    assert error.hint and path in str(error)


def test_a_missing_file_among_others_is_named(strategy: str, tmp_path: Path) -> None:
    save_floats(tmp_path / "a.safetensors", [10])
    with pytest.raises(StreamerNotFoundError, match=r"gone\.safetensors"):
        load([tmp_path / "a.safetensors", tmp_path / "gone.safetensors"])


def test_a_directory_is_an_error_with_its_errno(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(StreamerError, match="directory") as caught:
        load(str(tmp_path))
    assert caught.value.errno == errno.EISDIR


def test_a_pipe_is_refused_at_once(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(RunaiStreamerInvalidInputException, match="not a regular file"):
        load(path)


def test_a_file_without_permission_is_an_error_with_its_errno(
    strategy: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [10])
    path.chmod(0)
    code = """
import os, sys
from runai_model_streamer import SafetensorsStreamer
if os.getuid() == 0:
    os.seteuid(65534)
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([sys.argv[1]])
except PermissionError as error:
    print(isinstance(error, ValueError), error.errno, error.path == sys.argv[1])
"""
    assert python(code, str(path)) == f"True {errno.EACCES} True"


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_below_eight_bytes_is_truncated(strategy: str, tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x08" * size)
    with pytest.raises(StreamerShortReadError, match="truncated"):
        load(path)


def test_truncated_before_it_is_read(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [1000, 1000])
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StreamerShortReadError, match="truncated"):
        load(path)


def test_a_bad_file_behind_a_good_one_stops_what_was_begun(strategy: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    model = save_floats(good, [300_000] * 8)
    save_floats(bad, [1000])
    os.truncate(bad, bad.stat().st_size - 1)
    with SafetensorsStreamer() as streamer:
        with pytest.raises(StreamerShortReadError, match="truncated"):
            streamer.stream_files([str(good), str(bad)])
        with pytest.raises(StreamerError, match="nothing is being streamed"):
            next(streamer.get_tensors())
        streamer.stream_files([str(good)])
        assert dict.fromkeys(model, True) == {
            name: same(tensor, model[name]) for name, tensor in streamer.get_tensors()
        }


# In processes of their own: the wrong answer is a SIGBUS.
TRUNCATED = """
import os, sys
from runai_model_streamer import SafetensorsStreamer, StreamerError
path, after, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
total = 0.0
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for number, (name, tensor) in enumerate(streamer.get_tensors()):
            total += float(tensor.sum())
            del tensor
            if number == after:
                os.truncate(path, 4096)
                if how == "grown":
                    os.truncate(path, 40 << 20)
    print("complete")
except StreamerError as error:
    print(error.code, error.path == path)
"""


@pytest.mark.parametrize("how", ["short", "grown"])
@pytest.mark.parametrize("elements", [100, 300_000])
def test_truncated_while_it_is_read(strategy: str, tmp_path: Path, elements: int, how: str) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [elements] * 40)
    time.sleep(0.02)
    found = python(TRUNCATED, str(path), "0", how, RUNAI_STREAMER_MEMORY_LIMIT=str(2 * MIB))
    # Small tensors may all be in memory by then; nothing of the file is needed any more.
    allowed = {"changed True", "short_read True"} | ({"complete"} if elements == 100 else set())
    assert found in allowed


def test_replaced_by_renaming_gives_the_old_bytes(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    old = save_floats(path, [300_000] * 20, seed=1)
    save_floats(tmp_path / "b.safetensors", [300_000] * 20, seed=2)
    found = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for number, (name, tensor) in enumerate(streamer.get_tensors()):
            if number == 0:
                os.replace(tmp_path / "b.safetensors", path)
            found[name] = tensor.clone()
    assert all(same(found[name], old[name]) for name in old)


def test_replaced_in_place_is_an_error(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(2 * MIB))
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 20, seed=1)
    save_floats(tmp_path / "b.safetensors", [300_000] * 20, seed=2)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        tensors = streamer.get_tensors()
        next(tensors)
        time.sleep(0.02)  # the clock of modification times is coarse
        with open(path, "r+b") as file:  # savers may rename: this keeps the inode
            file.write((tmp_path / "b.safetensors").read_bytes())
        with pytest.raises(StreamerChangedError, match="modified") as caught:
            list(tensors)
    assert caught.value.path == str(path)


FAILING = """
import sys
from runai_model_streamer import SafetensorsStreamer, StreamerError
with SafetensorsStreamer() as streamer:
    try:
        streamer.stream_files([sys.argv[1]])
        for name, tensor in streamer.get_tensors():
            tensor.sum()
    except StreamerError as error:
        print(error.code, error.errno, error.path == sys.argv[1], error.size > 0,
              isinstance(error, OSError), "b'" in str(error))
"""


def test_an_error_of_the_disk_is_reported(strategy: str, tmp_path: Path, faulty: Faulty) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 10)
    found = faulty(FAILING, str(path), SHIM_FROM=str(3 * MIB), SHIM_ERRNO=str(errno.EIO))
    assert found == f"io {errno.EIO} True True True False"


@pytest.mark.parametrize("strategy_of", ["buffered", "direct"])
def test_a_limit_below_the_largest_tensor_is_an_error(
    strategy_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", strategy_of)
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [10, 500_000])
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "1999999")
    with pytest.raises(RunaiStreamerMemoryLimitException, match="RUNAI_STREAMER_MEMORY_LIMIT"):
        load(path)
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "2000000")
    assert same(load(path)["t0001"], tensors["t0001"])
    # Into memory of the caller no tensor needs memory of the engine.
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "4096")
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    load(path, into=into)
    assert all(same(into[name], tensors[name]) for name in tensors)


def test_memory_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    """The limit allows what the system does not give."""
    path = tmp_path / "a.safetensors"
    save_floats(path, [40_000_000])
    code = """
import re, resource, sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]], tensor_names=lambda name: False)
    list(streamer.get_tensors())
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([sys.argv[1]])
        list(streamer.get_tensors())
except MemoryError as error:
    print(error.code)
"""
    found = python(
        code,
        str(path),
        RUNAI_STREAMER_FS_STRATEGY="buffered",
        RUNAI_STREAMER_MEMORY_LIMIT="-1",
        RUNAI_STREAMER_CONCURRENCY="1",
        MALLOC_ARENA_MAX="1",
    )
    assert found == "out_of_memory"


def test_few_file_descriptors(strategy: str, tmp_path: Path) -> None:
    """Files share the descriptors that there are. With none, the error says so."""
    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.safetensors"
        save_floats(path, [10])
        paths.append(str(path))
    code = """
import os, resource, sys
from runai_model_streamer import SafetensorsStreamer
def limit(more):
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
os.listdir("/proc/self/fd")
limit(20)
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[1:])
    print(len(list(streamer.get_tensors())))
limit(0)
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(sys.argv[1:])
except OSError as error:
    print(error.errno, "ulimit -n" in error.hint)
"""
    assert python(code, *paths).split() == ["40", str(errno.EMFILE), "True"]


@pytest.mark.needs("another user")
@pytest.mark.parametrize(("allowed", "said"), [(0, "out_of_memory True"), (2, "10 True")])
def test_a_limit_of_threads_is_kept_or_an_error_that_says_so(
    strategy: str, public_directory: Path, allowed: int, said: str
) -> None:
    """As another user, whose processes are counted: root's are not."""
    path = public_directory / "a.safetensors"
    save_floats(path, [300_000] * 10)
    path.chmod(0o644)
    code = """
import os, resource, sys
import torch
from runai_model_streamer import SafetensorsStreamer
torch.set_num_threads(1)
allowed = int(sys.argv[2])
uid = 20000 + os.getpid() % 40000  # nobody else's
os.setresuid(uid, uid, uid)
threads = len(os.listdir("/proc/self/task"))
resource.setrlimit(resource.RLIMIT_NPROC, (threads + allowed,) * 2)
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([sys.argv[1]])
        print(len(list(streamer.get_tensors())), streamer.stats().threads <= max(allowed, 1))
except MemoryError as error:
    print(error.code, "ulimit -u" in str(error))
"""
    assert python(code, path, allowed) == said


def test_load_file_names_the_file_that_fails(tmp_path: Path) -> None:
    with pytest.raises(StreamerNotFoundError, match=r"nothing\.safetensors"):
        load_file(tmp_path / "nothing.safetensors")
