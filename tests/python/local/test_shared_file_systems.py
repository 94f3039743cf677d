"""File systems of other machines, of which a FUSE mount is an example: how they are read, and that
every byte is right."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.support.models import make_model, save
from tests.support.needs import running
from tests.support.processes import environment
from tests.support.servers.file_mount import FileMount

FILES = 2
MEGABYTES = 64


@pytest.fixture(scope="module")
def models() -> list[dict[str, torch.Tensor]]:
    return [make_model(MEGABYTES, 9, number) for number in range(FILES)]


@pytest.fixture(scope="module")
def directory(
    tmp_path_factory: pytest.TempPathFactory, models: list[dict[str, torch.Tensor]]
) -> Path:
    path = tmp_path_factory.mktemp("shared")
    for number, model in enumerate(models):
        (path / f"{number}.safetensors").write_bytes(save(model))
    return path


Load = Callable[..., str]


@pytest.fixture
def load(models: list[dict[str, torch.Tensor]]) -> Load:
    return functools.partial(load_all, models)


def load_all(
    models: list[dict[str, torch.Tensor]], mount: FileMount, concurrency: int | None = None
) -> str:
    """Compares every tensor; returns how the mount was read."""
    paths = [str(mount.path / f"{number}.safetensors") for number in range(FILES)]
    with SafetensorsStreamer(concurrency=concurrency) as streamer:
        streamer.stream_files(paths)
        expected = [tensor for model in models for tensor in model.values()]
        for (name, tensor), original in zip(streamer.get_tensors(), expected, strict=True):
            assert torch.equal(tensor, original), name
        return streamer.stats().notes["shared file system"]


# What the trial decides is tested in virtual time (tests/cpp/source/read_trial_test.cc): on a busy
# machine a read takes as long as a jump.
def test_a_mount_that_fetches_ahead(directory: Path, load: Load) -> None:
    with running(FileMount(directory, jump_ms=10, window=1 << 20, per_file=1)) as mount:
        assert re.match(r"one read at a time, in order|\d+ reads at once", load(mount))


def test_one_read_at_a_time_does_not_jump(directory: Path, load: Load) -> None:
    with running(FileMount(directory, jump_ms=1, window=1 << 20, per_file=1)) as mount:
        assert load(mount, concurrency=1).startswith("one read at a time, in order")
        assert mount.counts()["jumps"] <= 2 * FILES


def test_a_mount_that_is_far_away_is_read_by_many_at_once(directory: Path, load: Load) -> None:
    """The trial always tries several: their requests are in flight together."""
    with running(FileMount(directory, read_ms=25)) as mount:
        load(mount)
        assert mount.counts()["most_in_flight"] > 4


def test_a_number_of_reads_that_was_chosen_is_kept(directory: Path, load: Load) -> None:
    with running(FileMount(directory)) as mount:
        assert load(mount, concurrency=3).startswith("3 reads at once")


def test_a_mount_without_direct_reads(directory: Path, load: Load) -> None:
    with running(FileMount(directory, direct=0, read_ms=5)) as mount:
        assert "by the page cache" in load(mount)


def test_what_is_in_the_page_cache_is_not_asked_for_again(directory: Path, load: Load) -> None:
    with running(FileMount(directory)) as mount:
        for number in range(FILES):
            (mount.path / f"{number}.safetensors").read_bytes()
        served = mount.counts()["bytes"]
        load(mount)
        assert mount.counts()["bytes"] - served < 1 << 20


LOAD = """
import sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[1:])
    print("reading", flush=True)
    for _, tensor in streamer.get_tensors():
        pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_load_from_a_mount_that_hangs_can_be_ended(
    directory: Path, number: signal.Signals
) -> None:
    """The kernel lets nobody leave a read with O_DIRECT that such a mount has begun to serve.

    The mount hangs while the trial tries several reads.
    """
    with running(FileMount(directory, hang_from=16 << 20)) as mount:
        before = mount.counts()["reads"]
        load = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(mount.path / "0.safetensors")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        assert load.stdout is not None
        load.stdout.readline()
        last = -1
        while (now := mount.counts()["reads"]) > last or now == before:  # until it waits
            last = now
            time.sleep(0.5)
        load.send_signal(number)
        load.wait(60)
        load.stdout.close()
