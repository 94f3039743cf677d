"""is_distributed in one process or two; tests/python/distributed has the tests of more ranks."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path

import pytest
import torch.distributed

from runai_model_streamer import DistributedStreamer, SafetensorsStreamer
from tests.support.processes import python

PRELUDE = """
import sys, torch, torch.distributed as dist
from runai_model_streamer import SafetensorsStreamer
"""


def test_the_names_that_sglang_replaces() -> None:
    module = importlib.import_module(
        "runai_model_streamer.distributed_streamer.distributed_streamer"
    )
    assert module.dist is torch.distributed
    assert callable(module._distributedStreamerParams.find_local_ranks)


@pytest.mark.parametrize("mode", ["0", "1", "auto"])
def test_without_a_process_group_it_is_off(files, tensors, monkeypatch, mode: str) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIST", mode)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, device="cpu", is_distributed=True)
        assert streamer.file_streamer.ring_info() is None
        assert set(dict(streamer.get_tensors())) == set(tensors)


def test_ring_info_is_none_before_a_stream() -> None:
    with DistributedStreamer() as streamer:
        assert streamer.ring_info() is None


def test_a_group_of_one_rank_is_off(files, tensors) -> None:
    code = PRELUDE + (
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "with SafetensorsStreamer() as s:\n"
        "    s.stream_files(sys.argv[1:], is_distributed=True)\n"
        "    print(len(dict(s.get_tensors())), s.file_streamer.ring_info())\n"
    )
    out = python(code, *files, RUNAI_STREAMER_DIST="1")
    assert out.split("\n")[-1] == f"{len(tensors)} None"


def test_two_ranks_share_and_say_so(files, tensors) -> None:
    """Both ranks yield everything; the lines that people look for in logs; the default group."""
    code = PRELUDE + (
        "import os\n"
        "rank = 0 if (child := os.fork()) else 1\n"
        "store = dist.FileStore(sys.argv[1] + '.store', 2)\n"
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2)\n"
        "with SafetensorsStreamer() as s:\n"
        "    s.stream_files(sys.argv[1:], is_distributed=True)\n"
        "    ring = s.file_streamer.ring_info()\n"
        "    assert ring[0] == rank and min(ring[1:]) > 0, ring\n"
        "    count = len(dict(s.get_tensors()))\n"
        "total = torch.tensor([count])\n"
        "dist.all_reduce(total)\n"
        "if rank: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(int(total))\n"
    )
    env = {"RUNAI_STREAMER_DIST": "1", "OMP_NUM_THREADS": "1"}
    log = files[0] + ".log"
    out = python(code, *files, RUNAI_STREAMER_LOG_FILE=log, **env)
    assert out.split("\n")[-1] == str(2 * len(tensors))
    with open(log) as file:
        text = file.read()
    assert "[RunAI Streamer][Distributed] Using distributed streaming between 2 processes" in text
    for rank in (0, 1):
        assert f"[RunAI Streamer] Rank {rank}: CPU ring " in text


@pytest.mark.parametrize("good", [True, False])
def test_each_rank_verifies_what_it_got(files, tensors, good: bool) -> None:
    digests = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files}
    verify = {name.lstrip("/"): digest for name, digest in digests.items()}
    if not good:
        verify[files[-1].lstrip("/")] = "0" * 64
    code = PRELUDE + (
        "import json, os\n"
        "from runai_model_streamer import StreamerDigestError\n"
        "verify, *files = sys.argv[1:]\n"
        "rank = 0 if (child := os.fork()) else 1\n"
        "store = dist.FileStore(files[0] + '.store', 2)\n"
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2)\n"
        "with SafetensorsStreamer() as s:\n"
        "    s.stream_files(files, is_distributed=True, verify=json.loads(verify))\n"
        "    assert s.file_streamer.ring_info()\n"
        "    try: result = len(dict(s.get_tensors()))\n"
        "    except StreamerDigestError: result = 0\n"
        "total = torch.tensor([result])\n"
        "dist.all_reduce(total)\n"
        "if rank: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(int(total))\n"
    )
    env = {"RUNAI_STREAMER_DIST": "1", "OMP_NUM_THREADS": "1"}
    out = python(code, json.dumps(verify), *files, **env)
    assert out.split("\n")[-1] == str(2 * len(tensors) if good else 0)


def test_a_rank_may_exit_while_another_still_takes(files, tensors) -> None:
    """Its thread waits for the other one, and must not be cut off in torch by the interpreter."""
    code = PRELUDE + (
        "import subprocess\n"
        "port, code, *files = sys.argv[1:]\n"
        "rank = 0 if int(port) else 1\n"
        "store = dist.TCPStore('127.0.0.1', int(port), 2, bool(rank), wait_for_workers=False)\n"
        "if rank: other = subprocess.Popen([sys.executable, '-c', code, str(store.port), code,"
        " *files])\n"
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2)\n"
        "s = SafetensorsStreamer()\n"
        "s.stream_files(files, is_distributed=True)\n"
        "weights = s.get_tensors()\n"
        "count = len([next(weights)])\n"
        "if rank: status = other.wait()\n"
        "count += sum(1 for _ in weights)\n"
        "if rank: print(status, count)\n"
    )
    env = {"RUNAI_STREAMER_DIST": "1", "OMP_NUM_THREADS": "1", "RUNAI_STREAMER_MEMORY_LIMIT": "0"}
    out = python(code, "0", code, *files, **env)
    assert out.split("\n")[-1] == f"0 {len(tensors)}"
