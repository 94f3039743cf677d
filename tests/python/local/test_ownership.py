"""What was yielded is the caller's: nothing that happens to the file later shows in it."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer, load_file
from runai_model_streamer._errors import StreamerChangedError
from tests.support.models import MIB, same, save_floats
from tests.support.processes import python

SIZES = [300_000, 100, 100, 700_000, 5, 300_000, 2_000_000, 100]


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x55" * path.stat().st_size)


def copy_over(path: Path) -> None:
    """As `cp` does: truncates, then writes."""
    other = path.with_name("other")
    save_floats(other, [10] * 3, seed=77)
    shutil.copyfile(other, path)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


CHANGES: list[Callable[[Path], None]] = [overwrite, copy_over, truncate]


@pytest.fixture(params=["auto", "mapped", "buffered", "direct"])
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", request.param)
    return str(request.param)


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def change(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    return request.param  # type: ignore[no-any-return]


def differing(found: dict[str, torch.Tensor], model: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in found.items() if not same(tensor, model[name])]


def test_what_is_kept_outlives_its_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        found = dict(streamer.get_tensors())
    change(path)
    assert found.keys() == model.keys()
    assert differing(found, model) == []


def test_the_end_of_the_loop_is_enough(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        found = dict(streamer.get_tensors())
        change(path)
        assert differing(found, model) == []


def test_some_that_are_kept_outlive_their_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES * 3)
    kept = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for number, (name, tensor) in enumerate(streamer.get_tensors()):
            if number % 3 == 1:
                kept[name] = tensor
    change(path)
    assert len(kept) == len(SIZES)
    assert differing(kept, model) == []


def test_what_was_taken_before_a_break_outlives_its_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    found = {}
    streamer = SafetensorsStreamer()
    streamer.stream_files([path])
    for name, tensor in streamer.get_tensors():
        found[name] = tensor
        if len(found) == 4:
            break
    streamer.close()
    change(path)
    assert differing(found, model) == []


def test_what_outlives_a_streamer_that_nobody_closed_outlives_its_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    streamer = SafetensorsStreamer()
    streamer.stream_files([path])
    found = dict(next(streamer.get_tensors()) for _ in range(5))
    del streamer
    change(path)
    assert differing(found, model) == []


def test_chunks_that_are_kept_outlive_their_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a"
    content = os.urandom(5 * MIB + 77)
    path.write_bytes(content)
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, path, 0, [3 * MIB, 77, 2 * MIB])])
        found = [chunk for _, _, chunk in streamer.get_chunks()]
    change(path)
    assert b"".join(chunk.numpy().tobytes() for chunk in found) == content


def test_load_file_outlives_its_file(
    strategy: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    found = load_file(path)
    change(path)
    assert differing(found, model) == []


def test_what_the_caller_has_written_stays(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    found = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for name, tensor in streamer.get_tensors():
            found[name] = tensor.mul_(2)
            model[name] = model[name] * 2
        places = {name: tensor.data_ptr() for name, tensor in found.items()}
    truncate(path)
    assert differing(found, model) == []
    assert places == {name: tensor.data_ptr() for name, tensor in found.items()}
    for name, tensor in found.items():
        tensor.add_(1)
        model[name] = model[name] + 1
    assert differing(found, model) == []


def test_a_model_is_saved_over_the_file_that_it_came_from(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, SIZES)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        found = dict(streamer.get_tensors())
    safetensors.torch.save_file(found, path)
    assert differing(found, model) == []
    assert differing(load_file(path), model) == []


@pytest.mark.parametrize("large", [False, True])
def test_a_file_before_the_present_one_may_change(
    strategy: str, change: Callable[[Path], None], tmp_path: Path, large: bool
) -> None:
    """Or it is an error, if its tensors were not the caller's yet."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    first = save_floats(paths[0], [3_000_000] * 4 if large else SIZES)
    save_floats(paths[1], [3_000_000] * 8)
    time.sleep(0.02)
    found: dict[str, torch.Tensor] = {}
    error: StreamerChangedError | None = None
    try:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            for number, (name, tensor) in enumerate(streamer.get_tensors()):
                if number < len(first):
                    found[name] = tensor
                if number == len(first) + 6:
                    change(paths[0])
    except StreamerChangedError as caught:
        error = caught
    if large:
        assert error is None
    if error is not None:
        assert error.path == str(paths[0])
    else:
        assert differing(found, first) == []


# In a process of its own: the wrong answer is a SIGBUS.
CHANGED = """
import os, sys
from runai_model_streamer import SafetensorsStreamer, StreamerError
path, change, after = sys.argv[1:4]
kept = []
try:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for number, (name, tensor) in enumerate(streamer.get_tensors()):
            kept.append(tensor)
            if number == int(after):
                if change == "truncate":
                    os.truncate(path, 100)
                else:
                    with open(path, "r+b") as file:
                        file.write(b"x" * 5000)
    print("complete")
except StreamerError as error:
    print(error.code, error.path == path)
"""


@pytest.mark.parametrize("how", ["truncate", "write"])
@pytest.mark.parametrize("after", [0, 6, 7])
def test_a_change_while_tensors_are_views_is_an_error(
    strategy: str, tmp_path: Path, how: str, after: int
) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, SIZES)
    time.sleep(0.02)
    answer = python(CHANGED, str(path), how, str(after))
    if strategy in ("auto", "mapped"):
        assert answer in ("changed True", "short_read True")
    else:
        assert answer in ("changed True", "short_read True", "complete")


def test_a_change_after_a_break_is_an_error_of_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 20)
    time.sleep(0.02)
    streamer = SafetensorsStreamer()
    streamer.stream_files([path])
    kept = next(streamer.get_tensors())
    overwrite(path)
    with pytest.raises(StreamerChangedError) as caught:
        streamer.close()
    assert caught.value.path == str(path)
    streamer.close()
    assert kept[1].numel() == 300_000


def test_an_error_of_the_consumer_goes_before_that_of_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 20)
    time.sleep(0.02)
    with pytest.raises(ValueError, match="the consumer's own"), SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        kept = next(streamer.get_tensors())
        overwrite(path)
        raise ValueError("the consumer's own")
    assert kept[1].numel() == 300_000


def test_shared_tensors_stay_views(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    save_floats(path, SIZES)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], owned=False)
        found = dict(streamer.get_tensors())
    overwrite(path)
    assert {float(tensor[0]) for tensor in found.values()} == {
        float(torch.frombuffer(bytearray(b"\x55" * 4), dtype=torch.float32)[0])
    }


def anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def test_what_is_kept_is_copied_within_a_small_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = save_floats(path, [70_000] * 30)
    with SafetensorsStreamer(memory_limit=300_000, fs_strategy="mapped") as streamer:
        streamer.stream_files([path])
        found = dict(streamer.get_tensors())
        stats = streamer.stats()
    assert not differing(found, model)
    assert stats.bytes_by_strategy == {"mapped": stats.bytes}
    assert 0 < stats.peak_memory <= stats.memory_limit < MIB


def test_what_is_dropped_is_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    save_floats(path, [16 * MIB] * 5 + [100])
    before = anonymous_bytes()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for _, tensor in streamer.get_tensors():
            assert float(tensor[-1]) != 0
        stats = streamer.stats()
    assert stats.bytes_by_strategy == {"mapped": stats.bytes}
    assert anonymous_bytes() - before < 16 * MIB
    assert streamer.stats().peak_memory < 16 * MIB


def test_views_are_given_up_where_everything_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    model = save_floats(path, [2 * MIB] * 120)  # 960 MiB, of which views are at most 600
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        found = dict(streamer.get_tensors())
        strategies = streamer.stats().bytes_by_strategy
    assert strategies["buffered"] > 64 * MIB
    assert differing(found, model) == []


class Busy:
    """Threads that read, change and drop tensors until stop()."""

    PARTS = 5000  # of a tensor, by turns

    def __init__(self, found: dict[str, torch.Tensor], model: dict[str, torch.Tensor]) -> None:
        self.found = found
        self.model = model
        self.changed = list(found)[:2]
        self.parts: dict[str, int] = {}  # that were changed
        self.wrong: list[str] = []
        self._stop = threading.Event()
        names = list(found)
        self._threads = [
            *(threading.Thread(target=self._change, args=(name,)) for name in self.changed),
            threading.Thread(target=self._read, args=([(n, found[n]) for n in names[2:8]],)),
            threading.Thread(target=self._drop, args=(names[8:12],)),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _change(self, name: str) -> None:
        """Each element once: what is promised to threads that do not wait for the load."""
        done = 0
        while done < 3 or (done < self.PARTS and not self._stop.is_set()):
            self.found[name][done :: self.PARTS].add_(1)
            done += 1
        self.parts[name] = done

    def _read(self, tensors: Sequence[tuple[str, torch.Tensor]]) -> None:
        while not self._stop.is_set():
            self.wrong += [name for name, one in tensors if not torch.equal(one, self.model[name])]

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            del self.found[name]


def test_other_threads_read_write_and_drop_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    path = tmp_path / "a.safetensors"
    for seed in range(3):
        model = save_floats(path, [1_000_000] * 20, seed)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            tensors = streamer.get_tensors()
            found = dict(next(tensors) for _ in range(16))
            busy = Busy(found, model)
            streamer.close()
            busy.stop()
        truncate(path)
        assert busy.wrong == []
        for name in busy.changed:
            for part in range(busy.parts[name]):
                model[name][part :: busy.PARTS].add_(1)
        assert differing(found, model) == []


def test_kept_tensors_hold_no_descriptor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "mapped")
    paths = [tmp_path / f"{number}.safetensors" for number in range(20)]
    for path in paths:
        save_floats(path, [300_000])
    before = len(os.listdir("/proc/self/fd"))
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        found = [tensor for _, tensor in streamer.get_tensors()]
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(found) == 20
