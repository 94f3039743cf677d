"""Memory of a load, as seen from outside of its process."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.models import MIB
from tests.support.processes import environment

LIMIT = 16 * MIB
# What Python, the allocator, threads and their small buffers take.
MARGIN = 24 * MIB

# Loads the files that are its arguments, and drops each tensor. Waits for a line before it begins,
# and before it ends, so that what was used can be read.
LOAD = """
import sys
from runai_model_streamer import SafetensorsStreamer, load_file
load_file(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[2:])
    for _, tensor in streamer.get_tensors():
        del tensor
print(streamer.stats().peak_memory, flush=True)
sys.stdin.readline()
"""


def anonymous(process: int) -> int:
    """Bytes of anonymous memory that the process uses."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def evict(path: Path) -> None:
    with open(path) as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def most_resident(process: int) -> int:
    """Bytes that the process had in memory at most. The kernel counts, since who looks now and then
    can miss the most."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def growth(paths: list[Path], **variables: str) -> int:
    """The most that a load of `paths` was seen to add to the anonymous memory of its process."""
    return growth_and_peak(paths, anonymous, **variables)[0]


def growth_and_peak(
    paths: list[Path], used: Callable[[int], int], **variables: str
) -> tuple[int, int]:
    """The most that a load of `paths` added to what `used` says of its process, and
    stats().peak_memory."""
    load = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(paths[0]), *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    assert load.stdin is not None and load.stdout is not None
    with load:
        assert load.stdout.readline() == "ready\n"
        Path(f"/proc/{load.pid}/clear_refs").write_text("5")  # the most is what there is
        before = most = used(load.pid)
        load.stdin.write("go\n")
        load.stdin.flush()
        while not select.select([load.stdout], [], [], 0.001)[0]:
            most = max(most, used(load.pid))
        most = max(most, used(load.pid))
        peak = int(load.stdout.readline())
        load.stdin.write("go\n")
    assert load.returncode == 0
    return most - before, peak


def test_headers_of_many_files_stay_within_the_limit(tmp_path: Path) -> None:
    """First reads of files get more than their headers."""
    paths = [tmp_path / f"{i:03}.safetensors" for i in range(300)]
    save_file({"t": torch.zeros(300_000, dtype=torch.uint8)}, paths[0])
    for path in paths[1:]:
        path.hardlink_to(paths[0])
    assert growth(paths, RUNAI_STREAMER_MEMORY_LIMIT=str(LIMIT)) <= LIMIT + MARGIN


@pytest.mark.parametrize("size", [3 * MIB + 513, 300_001, 5_001])
def test_the_peak_is_what_the_process_saw(tmp_path: Path, size: int) -> None:
    """Tensors that direct reads reach without, partly and only through a buffer of the reader."""
    warm, path = tmp_path / "warm.safetensors", tmp_path / "model.safetensors"
    save_file({"t": torch.zeros(10)}, warm)
    save_file(
        {f"t{i}": torch.zeros(size, dtype=torch.uint8) for i in range(128 * MIB // size)}, path
    )
    evict(path)
    grown, peak = growth_and_peak(
        [warm, path],
        most_resident,
        RUNAI_STREAMER_MEMORY_LIMIT=str(4 * LIMIT),
        RUNAI_STREAMER_CONCURRENCY="48",
        RUNAI_STREAMER_FS_STRATEGY="direct",
    )
    assert peak <= 4 * LIMIT
    assert abs(grown - peak) <= 16 * MIB


def test_a_tensor_of_almost_the_limit_and_buffers_of_readers_stay_within_it(tmp_path: Path) -> None:
    """Each small tensor needs a buffer of its reader, and the large one needs their memory."""
    warm, path = tmp_path / "warm.safetensors", tmp_path / "model.safetensors"
    save_file({"t": torch.zeros(10)}, warm)
    tensors = {f"a{i:05}": torch.zeros(5_001, dtype=torch.uint8) for i in range(25_000)}
    large = {"b": torch.zeros(6 * LIMIT - LIMIT // 8, dtype=torch.uint8)}
    save_file(tensors | large, path)
    evict(path)
    grown, peak = growth_and_peak(
        [warm, path],
        most_resident,
        RUNAI_STREAMER_MEMORY_LIMIT=str(6 * LIMIT),
        RUNAI_STREAMER_CONCURRENCY="64",
        RUNAI_STREAMER_FS_STRATEGY="direct",
    )
    assert peak <= 6 * LIMIT
    assert grown <= 6 * LIMIT + MARGIN


@pytest.mark.parametrize("bytes_each", [1 << 15, 200_000])
def test_small_buffers_of_many_files_stay_within_the_limit(tmp_path: Path, bytes_each: int) -> None:
    """Workers allocate them, and the consumer drops them."""
    paths = [tmp_path / f"{i:04}.safetensors" for i in range(1000)]
    save_file({"t": torch.zeros(bytes_each, dtype=torch.uint8)}, paths[0])
    for path in paths[1:]:
        path.hardlink_to(paths[0])
    grown, peak = growth_and_peak(
        paths,
        anonymous,
        RUNAI_STREAMER_MEMORY_LIMIT=str(LIMIT),
        RUNAI_STREAMER_FS_STRATEGY="buffered",
    )
    assert peak <= LIMIT
    assert grown - peak <= 16 * MIB


def test_buffers_of_readers_are_small(tmp_path: Path) -> None:
    warm, path = tmp_path / "warm.safetensors", tmp_path / "model.safetensors"
    save_file({"t": torch.zeros(10)}, warm)
    tensors = {f"t{i}": torch.zeros(3 * MIB + 513, dtype=torch.uint8) for i in range(64)}
    save_file(tensors, path)

    def used(readers: int) -> int:
        evict(path)
        return growth_and_peak(
            [warm, path],
            most_resident,
            RUNAI_STREAMER_MEMORY_LIMIT=str(4 * LIMIT),
            RUNAI_STREAMER_CONCURRENCY=str(readers),
            RUNAI_STREAMER_FS_STRATEGY="direct",
        )[0]

    few = used(16)
    assert few <= 4 * LIMIT + MARGIN
    assert used(144) <= few + 128 * MIB // 4
