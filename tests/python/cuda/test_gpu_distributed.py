"""Staging, exchange and handing over on a GPU, with NCCL between as many ranks as there are GPUs.

With one GPU the group has one rank: all-gathers that move nothing, and everything around them.
Without any, the same goes through host memory and gloo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.group_of_one import share_with_nobody
from runai_model_streamer import SafetensorsStreamer
from tests.python.cuda import loads
from tests.support.models import check_same

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    backend = "nccl" if DEVICE.startswith("cuda") else "gloo"
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def expected(paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(DEVICE) for name, tensor in loads.expected(paths).items()}


@pytest.mark.parametrize("buffer", [None, "1000000"])
def test_every_tensor_arrives(
    group: None, big_files: list[Path], monkeypatch: pytest.MonkeyPatch, buffer: str | None
) -> None:
    if buffer is not None:
        monkeypatch.setenv("RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE", buffer)
    with SafetensorsStreamer() as streamer:
        share_with_nobody(streamer, DEVICE)
        for _ in range(2):
            streamer.stream_files(big_files, device=DEVICE, is_distributed=True)
            assert streamer.file_streamer.ring_info() is not None
            check_same(dict(streamer.get_tensors()), expected(big_files))


def test_tensors_that_exist_are_filled(group: None, big_files: list[Path]) -> None:
    targets = {name: torch.empty_like(tensor) for name, tensor in expected(big_files).items()}
    addresses = {name: tensor.data_ptr() for name, tensor in targets.items()}
    with SafetensorsStreamer() as streamer:
        share_with_nobody(streamer, DEVICE)
        streamer.stream_files(big_files, device=DEVICE, is_distributed=True, into=targets)
        got = dict(streamer.get_tensors())
    check_same(got, expected(big_files))
    assert {name: tensor.data_ptr() for name, tensor in got.items()} == addresses


def test_leaving_early_leaves_the_device_usable(group: None, big_files: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        share_with_nobody(streamer, DEVICE)
        streamer.stream_files(big_files, device=DEVICE, is_distributed=True)
        next(streamer.get_tensors())
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(big_files, device=DEVICE)
        check_same(dict(streamer.get_tensors()), expected(big_files))


_RANK = """
import os, sys, torch, torch.distributed as dist
from safetensors import safe_open
from benchmarks.group_of_one import share_with_nobody
from runai_model_streamer import SafetensorsStreamer
device = f"cuda:{os.environ['LOCAL_RANK']}"
torch.cuda.set_device(device)
dist.init_process_group("nccl")
names = None if sys.argv[1] == "all" else [f"{dist.get_rank() % 2}.*"]
with SafetensorsStreamer() as streamer:
    streamer.stream_files(sys.argv[2:], device=device, is_distributed=True, tensor_names=names)
    assert streamer.file_streamer.ring_info() is not None
    got = dict(streamer.get_tensors())
count = 0
for path in sys.argv[2:]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            if names is None or name.startswith(names[0][:2]):
                count += 1
                assert torch.equal(got[name].cpu(), file.get_tensor(name)), name
assert count == len(got)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("what", ["all", "different"])
def test_every_gpu_gets_what_it_wants(big_files: list[Path], tmp_path: Path, what: str) -> None:
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("one GPU: there is nobody to share with")
    program = tmp_path / "rank.py"
    program.write_text(_RANK)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={count}", str(program), what, *map(str, big_files)),
        ],
        env={**os.environ, "RUNAI_STREAMER_DIST": "1"},
        check=True,
        timeout=300,
    )
