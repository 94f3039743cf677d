"""StreamerPatcher, used like in vLLM's own test of object storage."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from runai_model_streamer.safetensors_streamer.streamer_mock import StreamerPatcher


def test_a_folder_stands_in_for_a_bucket(folder: Path, tensors, tmp_path_factory) -> None:
    patcher = StreamerPatcher(str(folder.parent))
    uri = f"s3://my-mock-bucket/{folder.name}/"
    files = patcher.shim_list_safetensors(uri)
    assert files == [f"{uri}model-1.safetensors", f"{uri}model-2.safetensors"]
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_files(files, device="cpu", is_distributed=False)
        got = dict(streamer.get_tensors())
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())

    target = tmp_path_factory.mktemp("pulled")
    patcher.shim_pull_files(uri, str(target), ["*.json"], None)
    assert os.listdir(target) == ["config.json"]
    patcher.shim_pull_files(uri, str(target), None, ["*.json"])
    assert (target / "deeper" / "model-3.safetensors").exists()
