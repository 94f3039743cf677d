"""What a load takes of descriptors, of addresses and of memory: measured from outside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.models import file_bytes, save_floats
from tests.support.processes import python

from .conftest import preload

MANY_FILES = """
import json, os, resource, sys
from runai_model_streamer import SafetensorsStreamer
directory, limit, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
paths = sorted(os.path.join(directory, name) for name in os.listdir(directory))[:count]
for path in paths:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
descriptors = lambda: len(os.listdir("/proc/self/fd"))
before = most = descriptors()
right = 0
with SafetensorsStreamer() as streamer:
    streamer.stream_files(paths)
    for number, (name, tensor) in enumerate(streamer.get_tensors()):
        right += int(tensor[0]) == int(name[1:]) % 251
        if number % 25 == 0:
            most = max(most, descriptors())
            os.close(os.open("/dev/null", os.O_RDONLY))  # the host's own
print(json.dumps([right, most - before, descriptors() - before]))
"""


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many")
    for number in range(2000):
        header = {f"t{number}": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
        data = bytes([number % 251] * 3)
        (directory / f"{number:04}.safetensors").write_bytes(file_bytes(header, data))
    return directory


@pytest.mark.parametrize(
    ("strategy", "limit", "count"),
    [("auto", 1024, 2000), ("direct", 256, 600)],
)
def test_descriptors_do_not_grow_with_the_files(
    many_files: Path, strategy: str, limit: int, count: int
) -> None:
    found = json.loads(
        python(MANY_FILES, many_files, limit, count, RUNAI_STREAMER_FS_STRATEGY=strategy)
    )
    right, most, left = found
    assert right == count
    assert most <= 64
    assert left <= 1


# Of a machine with 20 processors.
PROCESSORS = r"""
#define _GNU_SOURCE
#include <sched.h>
int sched_getaffinity(pid_t process, size_t size, cpu_set_t* set) {
  (void)process;
  CPU_ZERO_S(size, set);
  for (int i = 0; i < 20; ++i) CPU_SET_S(i, size, set);
  return 0;
}
"""

COLD = """
import json, os, re, sys, threading
import torch
from runai_model_streamer import SafetensorsStreamer, load_file
from runai_model_streamer._native_api import cached_fraction
path, how = sys.argv[1:]
size = os.path.getsize(path)
targets = None
if how == "into":
    with SafetensorsStreamer() as streamer:
        streamer.open_files([path])
        targets = {name: torch.zeros(80 << 18) for name in streamer.keys()}
fd = os.open(path, os.O_RDONLY)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
os.close(fd)
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
before = most = anonymous() + int(cached_fraction(path) * size)
done = threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, anonymous() + int(cached_fraction(path) * size))
thread = threading.Thread(target=watch)
thread.start()
if how == "file":
    kept = load_file(path)
else:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], into=targets)
        for name, tensor in streamer.get_tensors():
            pass
done.set()
thread.join()
most = max(most, anonymous() + int(cached_fraction(path) * size))
print((most - before) / size)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of 400 MiB."""
    path = tmp_path_factory.mktemp("model") / "a.safetensors"
    save_floats(path, [80 << 18] * 5)
    yield path
    path.unlink()


@pytest.mark.parametrize("how", ["file", "into"])
def test_a_cold_load_takes_the_memory_of_the_model_once(
    model: Path, tmp_path: Path, how: str
) -> None:
    """Also if there are enough processors to fill the page cache at the device's speed."""
    source = tmp_path / "processors.c"
    source.write_text(PROCESSORS)
    once = float(python(COLD, model, how, LD_PRELOAD=preload(source, tmp_path)))
    # The page cache or anonymous memory, not both. What `into` fills was there before.
    expected = 1.05 if how == "file" else 0.10
    noise = 24 * 2**20 / model.stat().st_size
    assert once <= expected + noise


ADDRESSES = """
import os, re, resource, sys
import torch
from runai_model_streamer import SafetensorsStreamer, load_file
path, how = sys.argv[1:3]
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
limit = used + os.path.getsize(path) + (700 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
if how == "load_file":
    kept = load_file(path)
else:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        kept = dict(streamer.get_tensors())
print(len(kept), all(bool(tensor[::4096].isfinite().all()) for tensor in kept.values()))
"""


@pytest.mark.parametrize("how", ["load_file", "loop"])
def test_a_load_fits_into_a_limit_of_addresses(model: Path, how: str) -> None:
    """`ulimit -v` of what the process has, the file, and 700 MiB."""
    assert python(ADDRESSES, model, how) == "5 True"


CGROUP_V1 = Path("/sys/fs/cgroup/memory")
CGROUP_V2 = Path("/sys/fs/cgroup")

IN_CGROUP = """
import os, sys
import torch
from runai_model_streamer import load_file
path, group, limit_file, usage_file = sys.argv[1:5]
fd = os.open(path, os.O_RDONLY)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
os.close(fd)
open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))
kept = torch.ones(1000)
usage = int(open(os.path.join(group, usage_file)).read())
limit = usage + int(1.1 * os.path.getsize(path))
open(os.path.join(group, limit_file), "w").write(str(limit))
state = load_file(path)
print(len(state), all(bool(tensor[::4096].isfinite().all()) for tensor in state.values()))
"""


def make_cgroup(name: str) -> tuple[Path, str, str]:
    """A cgroup, and its files of the limit and of the use of memory."""
    for root, limit, usage in (
        (CGROUP_V1, "memory.limit_in_bytes", "memory.usage_in_bytes"),
        (CGROUP_V2, "memory.max", "memory.current"),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            return group, limit, usage
        group.rmdir()
    pytest.skip("needs a cgroup with a limit of memory")


def test_a_cold_file_in_a_cgroup_that_has_room_for_it_once(model: Path) -> None:
    group, limit, usage = make_cgroup(f"streamer-{os.getpid()}")
    try:
        assert python(IN_CGROUP, model, group, limit, usage) == "5 True"
    finally:
        group.rmdir()


KEPT = """
import bisect, sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    kept = [tensor.data_ptr() for _, tensor in list(streamer.get_tensors())]
    ends = [int(line.split()[0].split("-")[1], 16) for line in open("/proc/self/maps")]
    print(len(kept), len({bisect.bisect(ends, address) for address in kept}))
"""


@pytest.mark.parametrize("strategy", ["auto", "mapped", "buffered", "direct"])
def test_tensors_that_are_kept_share_mappings(tmp_path: Path, strategy: str) -> None:
    """The kernel allows 65,530."""
    size, count = (4 << 20) + 4096, 100
    header = {
        f"t{number:02}": {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(count)
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(header))
    os.truncate(path, path.stat().st_size + count * size)
    kept, mappings = python(KEPT, path, RUNAI_STREAMER_FS_STRATEGY=strategy).split()
    assert int(kept) == count
    assert int(mappings) < count // 2
