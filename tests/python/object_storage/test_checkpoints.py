"""Checkpoints of every storage: their index decides."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from runai_model_streamer import (
    SafetensorsHeaderError,
    SafetensorsStreamer,
    StreamerNotFoundError,
    list_checkpoint,
    load_checkpoint,
    safe_open,
)
from runai_model_streamer.dcp import SafetensorsReader

pytestmark = pytest.mark.servers


def tensors(**values: float) -> bytes:
    return safetensors.torch.save({name: torch.full((2,), value) for name, value in values.items()})


def index(**files: str) -> bytes:
    return json.dumps({"weight_map": files}).encode()


@pytest.fixture
def model(storage, use):
    use(storage.env)
    storage.put("m/a.safetensors", tensors(x=1, w=7))
    storage.put("m/b.safetensors", tensors(w=2))
    storage.put("m/z.safetensors", tensors(w=9))
    storage.put("m/consolidated.safetensors", tensors(y=9))
    storage.put("m/model.safetensors.index.json", index(x="a.safetensors", w="b.safetensors"))
    return f"{storage.uri}/m"


@pytest.mark.parametrize("suffix", ["", "/", "/model.safetensors.index.json"])
def test_the_index_decides(model, suffix):
    files = [f"{model}/a.safetensors", f"{model}/b.safetensors"]
    assert list_checkpoint(model + suffix) == files
    found = load_checkpoint(model + suffix)
    assert {name: float(tensor[0]) for name, tensor in found.items()} == {"x": 1, "w": 2}


def test_a_missing_shard_is_named(storage, use):
    use(storage.env)
    storage.put("n/a.safetensors", tensors(x=1))
    storage.put("n/model.safetensors.index.json", index(x="a.safetensors", w="gone.safetensors"))
    for suffix in ("", "/model.safetensors.index.json"):
        with pytest.raises(StreamerNotFoundError, match=r"gone\.safetensors"):
            load_checkpoint(f"{storage.uri}/n{suffix}")


def test_a_tensor_that_its_shard_lacks_is_named(storage, use):
    use(storage.env)
    storage.put("l/a.safetensors", tensors(x=1))
    storage.put("l/b.safetensors", tensors(y=1))
    storage.put("l/model.safetensors.index.json", index(x="a.safetensors", w="b.safetensors"))
    for suffix in ("", "/model.safetensors.index.json"):
        for load in (load_checkpoint, safe_open):
            with pytest.raises(
                SafetensorsHeaderError, match=r"index\.json: .*'w' is in .*/l/b\.safetensors"
            ):
                load(f"{storage.uri}/l{suffix}")


def test_a_pattern_selects_files(storage, model):
    if storage.name == "web":
        pytest.skip("in an address, a star is a letter of a name")
    files = [f"{model}/a.safetensors", f"{model}/b.safetensors"]
    assert list_checkpoint(f"{model}/[ab].safe*") == files
    assert list_checkpoint(f"{model}/*.safetensors")[-1] == f"{model}/z.safetensors"


def test_settings_of_one_streamer_reach_the_server(storage):
    """Nothing in the environment leads to the server."""
    if storage.name == "azure":
        pytest.skip("its SDK finds the identity, and reads the environment")
    storage.put("one.safetensors", tensors(x=1))
    with SafetensorsStreamer(settings=storage.env) as streamer:
        streamer.stream_files([f"{storage.uri}/one.safetensors"])
        assert float(dict(streamer.get_tensors())["x"][0]) == 1
        assert float(streamer.get_slice("x")[0]) == 1


def test_torch_loads_it_and_each_file_is_opened_once(storage, model, use, tmp_path, no_aborts):
    trace = tmp_path / "trace"
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})
    state = {name: torch.zeros(2) for name in "xw"}
    dcp.load(state, storage_reader=SafetensorsReader(model))
    assert {name: float(tensor[0]) for name, tensor in state.items()} == {"x": 1, "w": 2}
    assert "range=bytes=0-32767 " in trace.read_text()
    assert "range=bytes=0-0 " not in trace.read_text()  # as a file is opened whose header is known
