"""The garbage collector is as it was before and after a load, and runs less during one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._gc import collection_spaced

THRESHOLD = (700, 10, 10)


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLD)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.safetensors"
    save_file({f"t{i:04}": torch.full((8,), i) for i in range(2000)}, path)
    return path


def test_collections_are_rare_while_small_tensors_are_yielded(many: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(many)
        tensors = streamer.get_tensors()
        assert gc.get_threshold() == THRESHOLD
        next(tensors)
        assert gc.get_threshold()[0] > 10_000 and gc.isenabled()
        assert gc.get_threshold()[1:] == THRESHOLD[1:]
        assert sum(1 for _ in tensors) == 1999
        assert gc.get_threshold() == THRESHOLD


def test_an_abandoned_load_restores_the_threshold(many: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(many)
        tensors = streamer.get_tensors()
        next(tensors)
        del tensors
        assert gc.get_threshold() == THRESHOLD


@pytest.mark.parametrize(("tensors", "size"), [(999, 999), (1000, 1000 << 20), (5000, 5000 << 19)])
def test_few_or_large_tensors_change_nothing(tensors: int, size: int) -> None:
    with collection_spaced(tensors, size):
        assert gc.get_threshold() == THRESHOLD


def test_garbage_holds_at_most_256_mib_of_tensors() -> None:
    with collection_spaced(10_000, 10_000 << 16):
        assert gc.get_threshold()[0] == (256 << 20) >> 16


def test_two_loads_that_end_in_any_order() -> None:
    one, other = collection_spaced(5000, 5000 << 14), collection_spaced(5000, 5000 << 15)
    one.__enter__()
    large = gc.get_threshold()[0]
    other.__enter__()
    assert gc.get_threshold()[0] == large
    one.__exit__(None, None, None)
    assert THRESHOLD[0] < gc.get_threshold()[0] < large
    other.__exit__(None, None, None)
    assert gc.get_threshold() == THRESHOLD


def test_a_load_that_the_collector_ends_while_another_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Abandoned:
        def __init__(self) -> None:
            self.itself = self
            self.load = collection_spaced(5000, 5000)
            self.load.__enter__()

    Abandoned()
    get_threshold = gc.get_threshold

    def get_threshold_and_collect() -> tuple[int, int, int]:
        threshold = get_threshold()
        if gc.isenabled():
            gc.collect()
        return threshold

    monkeypatch.setattr(gc, "get_threshold", get_threshold_and_collect)
    with collection_spaced(5000, 5000):
        monkeypatch.undo()
        gc.collect()
    assert gc.get_threshold() == THRESHOLD


def test_what_the_process_sets_meanwhile_stays() -> None:
    with collection_spaced(5000, 5000):
        gc.set_threshold(123, 4, 5)
        with collection_spaced(5000, 5000):
            assert gc.get_threshold() == (123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_a_collector_that_is_off_stays_off() -> None:
    gc.set_threshold(0)
    with collection_spaced(5000, 5000):
        assert gc.get_threshold()[0] == 0
    assert gc.get_threshold()[0] == 0
