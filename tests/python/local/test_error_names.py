"""Errors about one tensor name the tensor and its file, as text and as `path`, and a cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from runai_model_streamer import SafetensorsStreamer, StreamerError, Target, load_model, safe_open
from runai_model_streamer.dcp import SafetensorsReader
from runai_model_streamer.numpy import stream_files
from tests.support import models

FIRST = {
    "plain": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "twice": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
}
SECOND = {
    "twice": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [8, 11]},
    "odd": {"dtype": "F4", "shape": [2, 3], "data_offsets": [11, 14]},
    "four": {"dtype": "F4", "shape": [2, 4], "data_offsets": [14, 18]},
    "half": {"dtype": "F16", "shape": [2, 2], "data_offsets": [18, 26]},
}
needs_f4 = pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no F4")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whole = torch.nn.Parameter(torch.zeros(2))
        self.fused = torch.nn.Parameter(torch.zeros(4))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [
        models.write(tmp_path / "model-00001-of-00002.safetensors", FIRST, bytes(16)),
        models.write(tmp_path / "model-00002-of-00002.safetensors", SECOND, bytes(26)),
    ]


def stream(**arguments: Any) -> Callable[[list[str]], object]:
    def call(files: list[str]) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, **arguments)

    return call


def mapped(**targets: object) -> Callable[[list[str]], object]:
    """load_model() of the second file alone, which has all of these tensors."""
    return lambda files: load_model(Model(), files[1], strict=False, key_map=targets.get)  # type: ignore[arg-type]


def sliced(name: str, index: Any) -> Callable[[list[str]], object]:
    def call(files: list[str]) -> object:
        with safe_open(files[1]) as opened:
            return opened.get_slice(name)[index]

    return call


def checkpoint(name: str, tensor: torch.Tensor) -> Callable[[list[str]], object]:
    """Without what torch wraps around the error."""

    def call(files: list[str]) -> None:
        reader = SafetensorsReader(files[1])
        metadata = reader.read_metadata()
        planner = dcp.DefaultLoadPlanner()
        planner.set_up_planner({name: tensor}, metadata, True)
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        reader.read_data(planner.create_local_plan(), planner)

    return call


HALF = "half"
CASES: list[Any] = [
    pytest.param("six", stream(), id="everything"),
    pytest.param("six", stream(tensor_names=["six"]), id="names"),
    pytest.param("six", stream(tensor_names=["six"], into={"six": torch.ones(4)}), id="into six"),
    pytest.param("six", sliced("six", 0), id="slice six"),
    pytest.param("six", lambda files: list(stream_files([files[1]])), id="numpy"),
    pytest.param("six", mapped(six="fused"), id="six alone"),
    pytest.param("six", mapped(six=Target("fused", slice(4))), id="six as a part"),
    pytest.param("six", mapped(six=Target("fused", source=slice(4))), id="a part of six"),
    pytest.param("six", checkpoint("six", torch.ones(4)), id="dcp six"),
    pytest.param("odd", stream(tensor_names=["odd"]), marks=needs_f4, id="odd"),
    pytest.param("odd", mapped(odd=Target("fused", slice(4))), marks=needs_f4, id="odd as a part"),
    pytest.param("odd", checkpoint("odd", torch.ones(2, 1)), marks=needs_f4, id="dcp odd"),
    pytest.param("four", mapped(four=Target("fused", slice(4), (0,))), id="index of a number"),
    pytest.param("four", checkpoint("four", torch.ones(2, 2)), marks=needs_f4, id="dcp convert"),
    pytest.param("twice", stream(tensor_names=["twice"]), id="twice"),
    pytest.param(
        "twice", stream(tensor_names=lambda name: name == "twice", into={}), id="twice into"
    ),
    pytest.param(HALF, stream(tensor_names=[HALF], into={HALF: torch.ones(4)}), id="dtype"),
    pytest.param(HALF, stream(tensor_names=[HALF], into={HALF: torch.ones(4).half()}), id="shape"),
    pytest.param(
        HALF, stream(tensor_names=[HALF], into={HALF: torch.ones(2, 2).half().t()}), id="strides"
    ),
    pytest.param(HALF, stream(tensor_names=[HALF], slices={HALF: (slice(1),) * 3}), id="slices"),
    pytest.param(HALF, stream(tensor_names=[HALF], slices=lambda *_: 3), id="slices by a function"),
    pytest.param(HALF, sliced(HALF, "x"), id="text"),
    pytest.param(HALF, sliced(HALF, slice(None, None, -1)), id="step"),
    pytest.param(HALF, mapped(half=3), id="no target"),
    pytest.param(HALF, mapped(half="whole", twice="whole"), id="both"),
    pytest.param(HALF, mapped(half=Target("whole", slice(1)), twice="whole"), id="all and a part"),
    pytest.param(HALF, mapped(half=Target("fused", slice(3), (0,))), id="shape of a part"),
    pytest.param(HALF, mapped(half=Target("fused", 9)), id="out of range"),
    pytest.param(
        HALF,
        mapped(half=Target("fused", slice(2)), twice=Target("fused", slice(2, 4))),
        id="dtypes of parts",
    ),
]


@pytest.mark.parametrize(("name", "call"), CASES)
def test_an_error_about_a_tensor_names_it_and_its_file(
    name: str, call: Callable[[list[str]], object], files: list[str]
) -> None:
    with pytest.raises(StreamerError) as caught:
        call(files)
    assert caught.value.path == files[1]
    assert str(caught.value).startswith(f"{files[1]}: ")
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize("index", [(0, 0, 0), 9, (0, -3)])
def test_an_index_out_of_range_names_the_tensor_and_its_file(index: Any, files: list[str]) -> None:
    with pytest.raises(IndexError, match="tensor 'half'") as caught:
        sliced("half", index)(files)
    assert str(caught.value).startswith(f"{files[1]}: ")


@needs_f4
def test_a_part_that_torch_can_not_convert(files: list[str]) -> None:
    """Known when it is copied: torch says which dtypes it converts by refusing."""
    target = Target("fused", source=(slice(None), slice(1)))
    with pytest.raises(StreamerError, match="can't convert 'four'") as caught:
        load_model(Flat(), files[1], strict=False, key_map={"four": target}.get)
    assert caught.value.path == files[1]


class Flat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fused = torch.nn.Parameter(torch.zeros(2, 1))


def test_others_of_a_checkpoint_with_a_dtype_that_torch_lacks(files: list[str]) -> None:
    state = {"half": torch.ones(2, 2).half()}
    dcp.load(state, storage_reader=SafetensorsReader(files[1]))
    assert torch.equal(state["half"], torch.zeros(2, 2).half())
    model = Model()
    load_model(model, files[1], strict=False, key_map={"twice": "whole"}.get)
