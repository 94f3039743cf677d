"""A consumer's own lines, which mypy and pyright check in their strictest modes: `make lint`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

import runai_model_streamer
import runai_model_streamer.dlpack
import runai_model_streamer.numpy
from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    S3Credentials,
    SafetensorsStreamer,
    StreamerError,
    StreamStats,
    list_checkpoint,
    list_files,
    list_safetensors,
    load_checkpoint,
    load_file,
    load_model,
    pull_files,
    safe_open,
)
from runai_model_streamer.distributed_streamer.distributed_streamer import (
    _distributedStreamerParams,  # pyright: ignore[reportPrivateUsage] - SGLang replaces its method
)
from runai_model_streamer.integrations import pretrained
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request

version: str = runai_model_streamer.__version__
state: dict[str, torch.Tensor] = load_file(Path("a"), device=0)
state = load_checkpoint("a", "cuda:0", variant="fp16")
paths: list[str] = list_safetensors("a") + list_checkpoint("a") + [p for p, _ in list_files("a")]
with SafetensorsStreamer(memory_limit=1, settings={"a": "b"}) as streamer:
    streamer.stream_files(
        paths,
        s3_credentials=S3Credentials("a", "b"),
        device=torch.device("cpu"),
        tensor_names={"a"},
        progress=lambda done, total: None,
        into={"a": torch.zeros(1)},
    )
    for name, tensor in streamer.get_tensors():
        upper: str = name.upper()
        sum_: torch.Tensor = tensor.add(1)
    part: torch.Tensor = streamer.get_slice("a")[1:2]
    stats: StreamStats = streamer.stats()
    rate: float = stats.rate
    count: int = sum(len(file) for file in streamer.files_to_tensors_metadata.values())
    dtype: torch.dtype = streamer.files_to_tensors_metadata[0][0].get_torch_dtype()
    shape: tuple[int, ...] = streamer.files_to_tensors_metadata[0][0].shape
    metadata: dict[str, str] = streamer.metadata()
    for offset, tensors, sizes in prepare_request(streamer, paths, None):
        end: int = offset + sum(sizes)
        names: list[str] = [one.name for one in tensors]
missing, unexpected = load_model(torch.nn.Linear(1, 1), "a")
texts: list[str] = sorted(missing) + unexpected
try:
    pull_files("s3://a", "b", ["*.json"], None)
except StreamerError as error:
    code: str = error.code
    path: str | None = error.path
    status: int | None = error.http_status
with FileStreamer() as files:
    files.stream_files([FileChunks(0, "a", 0, [1])])
    for number, index, chunk in files.get_chunks():
        total: int = number + index + chunk.numel()
with DistributedStreamer() as distributed:
    distributed.stream_files([FileChunks(0, "a", [0], [1])], is_distributed=True)
    ring: tuple[int, int, int] | None = distributed.ring_info()
with ObjectStorageModel("s3://a", "b") as model:
    model.pull_files(None, ["*.bin"])
    directory: str = model.dir
with safe_open("a", framework="pt", device="cuda:0") as opened:
    one: torch.Tensor = opened.get_tensor("a")
    row: torch.Tensor = opened.get_slice("a")[0]
    sizes_: list[int] = opened.get_slice("a").get_shape()
with safe_open("a", framework="np") as arrays:
    two: NDArray[numpy.generic] = arrays.get_tensor("a")
for _, array in runai_model_streamer.numpy.stream_files(["a"]):
    elements: int = array.size
for _, exported in runai_model_streamer.dlpack.stream_files(["a"], tensor_names=["a"]):
    kind: str = exported.dtype
    taken: NDArray[numpy.generic] = numpy.from_dlpack(exported)


async def load() -> int:
    seen = 0
    async for name, tensor in SafetensorsStreamer().get_tensors_async():
        seen += len(name) + tensor.numel()
    return seen


result: int = asyncio.run(load())
with pretrained("hf://a/b") as place:
    config: str = place + "/config.json"


def ranks_of(params: _distributedStreamerParams) -> int:
    return params.find_local_ranks()[0]
