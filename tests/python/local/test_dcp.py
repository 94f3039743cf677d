"""torch.distributed.checkpoint over safetensors files, in one process."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

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


def replace_first(directory: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(50, 7)}, directory / "new")
    (directory / "new").rename(directory / "model-0.safetensors")


def test_a_file_that_is_replaced_after_its_header_was_read(directory: Path) -> None:
    """Each file is opened once: the bytes are of the file that had the header."""

    class Replacing(dcp.DefaultLoadPlanner):
        def create_local_plan(self) -> dcp.LoadPlan:
            replace_first(directory)
            return super().create_local_plan()

    state = empty("a")
    dcp.load(state, storage_reader=SafetensorsReader(directory), planner=Replacing())
    assert torch.equal(state["a"], TENSORS["a"])


def test_a_file_that_is_replaced_after_another_reader_read_its_header(directory: Path) -> None:
    """As if that was another rank."""

    class Following(SafetensorsReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            metadata = SafetensorsReader(directory).read_metadata()
            replace_first(directory)
            return metadata

    with pytest.raises((StreamerChangedError, dcp.api.CheckpointException), match="changed"):
        dcp.load(empty("a"), storage_reader=Following(directory))


def test_files_of_metadata_of_another_directory(directory: Path, tmp_path: Path) -> None:
    """Files that this reader has not opened."""
    other = tmp_path / "other"
    other.mkdir()
    safetensors.torch.save_file({"a": TENSORS["a"]}, other / "model.safetensors")

    class Following(SafetensorsReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            super().read_metadata()
            return SafetensorsReader(other).read_metadata()

    state = empty("a")
    dcp.load(state, storage_reader=Following(directory))
    assert torch.equal(state["a"], TENSORS["a"])


def test_one_reader_for_two_loads(directory: Path) -> None:
    """Of which the first one was refused."""
    reader = SafetensorsReader(directory)
    with pytest.raises(dcp.api.CheckpointException, match="other"):
        dcp.load({"other": torch.ones(2)}, storage_reader=reader)
    replace_first(directory)
    state = empty("a")
    dcp.load(state, storage_reader=reader)
    assert torch.equal(state["a"], torch.ones(50, 7))


@pytest.mark.parametrize(
    "info", ["{", "[]", {"a": {}}, {"a": {"saved_offsets": [0]}}, {"a": {"saved_offsets": "x"}}]
)
def test_offsets_that_are_not_those_of_torch(tmp_path: Path, info: object) -> None:
    text = info if isinstance(info, str) else json.dumps(info)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": TENSORS["a"]}, path, {"DCP_SHARDING_INFO": text})
    with pytest.raises(SafetensorsHeaderError, match="DCP_SHARDING_INFO"):
        SafetensorsReader(tmp_path).read_metadata()
