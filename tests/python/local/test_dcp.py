"""torch.distributed.checkpoint over safetensors files, in one process."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from runai_model_streamer import SafetensorsHeaderError, StreamerChangedError
from runai_model_streamer.dcp import SafetensorsReader

TENSORS = {
    "a": torch.randn(50, 7),
    "b": torch.arange(30).view(5, 6),
    "c": torch.randn(3).bfloat16(),
    "none": torch.empty(0, 4),
    "scalar": torch.tensor(2.5),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for number, names in enumerate((["a", "none"], ["b", "c", "scalar"])):
        part = {name: TENSORS[name] for name in names}
        safetensors.torch.save_file(part, tmp_path / f"model-{number}.safetensors")
    return tmp_path


def empty(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(TENSORS[name]) for name in names or TENSORS}


def test_every_tensor(directory: Path) -> None:
    state = empty()
    dcp.load(state, storage_reader=SafetensorsReader(directory))
    for name, tensor in TENSORS.items():
        assert torch.equal(state[name], tensor)


def test_some_tensors_of_other_dtypes_and_strides(directory: Path) -> None:
    state = {"a": torch.zeros(7, 50).t(), "b": torch.zeros(5, 6)}
    reader = SafetensorsReader(directory)
    dcp.load(state, storage_reader=reader)
    assert torch.equal(state["a"], TENSORS["a"])
    assert torch.equal(state["b"], TENSORS["b"].float())
    assert reader.stats().bytes == TENSORS["a"].nbytes + TENSORS["b"].nbytes


def test_missing_names(directory: Path) -> None:
    state = {**empty("a"), "other": torch.ones(2)}
    with pytest.raises(dcp.api.CheckpointException, match="other"):
        dcp.load(state, storage_reader=SafetensorsReader(directory))


def test_a_tensor_that_its_shard_lacks(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The planner decides, which knows what is wanted."""
    files = dict.fromkeys(["a", "none", "other"], "model-0.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    state = empty("a")
    dcp.load(state, storage_reader=SafetensorsReader(directory))
    assert torch.equal(state["a"], TENSORS["a"])
    assert f"{index}: the index says that the tensor 'other' is in" in caplog.text
    with pytest.raises(dcp.api.CheckpointException, match="other"):
        dcp.load({"other": torch.ones(2)}, storage_reader=SafetensorsReader(directory))


@pytest.mark.skipif(
    "allow_partial_load" not in inspect.signature(dcp.DefaultLoadPlanner).parameters,
    reason="the planner of this torch has no allow_partial_load",
)
def test_missing_names_that_a_planner_allows(directory: Path) -> None:
    state = {**empty("a"), "other": torch.ones(2)}
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
    dcp.load(state, storage_reader=SafetensorsReader(directory), planner=planner)
    assert torch.equal(state["a"], TENSORS["a"])
    assert torch.equal(state["other"], torch.ones(2))


def test_a_file_that_is_replaced_after_its_header_was_read(directory: Path) -> None:
    class Replacing(dcp.DefaultLoadPlanner):
        def create_local_plan(self) -> dcp.LoadPlan:
            safetensors.torch.save_file({"a": torch.ones(50, 7)}, directory / "new")
            (directory / "new").rename(directory / "model-0.safetensors")
            return super().create_local_plan()

    with pytest.raises((StreamerChangedError, dcp.api.CheckpointException), match="changed"):
        dcp.load(empty("a"), storage_reader=SafetensorsReader(directory), planner=Replacing())


@pytest.mark.parametrize(
    "info", ["{", "[]", {"a": {}}, {"a": {"saved_offsets": [0]}}, {"a": {"saved_offsets": "x"}}]
)
def test_offsets_that_are_not_those_of_torch(tmp_path: Path, info: object) -> None:
    text = info if isinstance(info, str) else json.dumps(info)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": TENSORS["a"]}, path, {"DCP_SHARDING_INFO": text})
    with pytest.raises(SafetensorsHeaderError, match="DCP_SHARDING_INFO"):
        SafetensorsReader(tmp_path).read_metadata()
