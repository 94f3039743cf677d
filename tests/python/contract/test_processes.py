"""The package in its process: environment, logging, fork, and no collective without request."""

from __future__ import annotations

import logging
import os

import pytest
import torch

import runai_model_streamer
from runai_model_streamer import SafetensorsStreamer, list_safetensors
from tests.support.models import load
from tests.support.processes import THREADS, python, run_python


def test_settings_are_read_when_a_stream_starts(files, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "3")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        assert len(list(streamer.get_tensors())) == 7
        assert streamer.stats().concurrency == 3
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "nonsense")
    with pytest.raises(ValueError, match=r"nonsense.*RUNAI_STREAMER_CONCURRENCY"):
        load(files)


def test_the_variable_that_consumers_set_is_known(files, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_S3_ENDPOINT", "http://127.0.0.1:1")
    load(files)


def fork(work) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_a_forked_child_streams_after_its_parent_did(folder, files, tensors) -> None:
    load(files)
    list_safetensors(str(folder))

    def work() -> None:
        got = load(list_safetensors(str(folder)))
        # Compared by numpy: torch's own threads do not survive a fork.
        for name, tensor in tensors.items():
            one, other = (t.reshape(-1).view(torch.uint8).numpy() for t in (got[name], tensor))
            assert (one == other).all()

    assert fork(work) == 0
    load(files)


def test_no_thread_is_left_behind(files) -> None:
    out = python(
        THREADS + "import sys\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "before = threads()\n"
        "for _ in range(3):\n"
        "    with SafetensorsStreamer() as s:\n"
        "        s.stream_files(sys.argv[1:])\n"
        "        list(s.get_tensors())\n"
        "print(threads(before) - before)\n",
        *files,
        env={"OMP_NUM_THREADS": "1"},
    )
    assert out == "0"


def test_a_load_of_one_rank_uses_no_collective(files, tensors) -> None:
    # With two ranks of which only one streams, any collective would wait for ever.
    code = (
        "import os, sys, torch, torch.distributed as dist\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "child = os.fork()\n"
        "store = dist.FileStore(sys.argv[1] + '.store', 2)\n"
        "if child == 0:\n"
        "    dist.init_process_group('gloo', store=store, rank=1, world_size=2)\n"
        "    store.wait(['done'])\n"
        "    os._exit(0)\n"
        "dist.init_process_group('gloo', store=store, rank=0, world_size=2)\n"
        "with SafetensorsStreamer() as s:\n"
        "    s.stream_files(sys.argv[1:], device='cpu', is_distributed=False)\n"
        "    print(len(dict(s.get_tensors())))\n"
        "store.set('done', '1')\n"
        "os.wait()\n"
    )
    assert python(code, *files).split("\n")[-1] == str(len(tensors))


def test_loggers_and_the_summary_line_keep_their_names(files, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="runai_model_streamer"):
        load(files)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("runai_model_streamer")]
    assert any(
        line.startswith("[RunAI Streamer] Overall time to stream ")
        and " of all files to cpu: " in line
        and line.endswith("/s")
        for line in lines
    ), lines


def test_lines_reach_standard_error_only_when_asked(files) -> None:
    code = (
        "import sys\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "with SafetensorsStreamer() as s:\n"
        "    s.stream_files(sys.argv[1:]); list(s.get_tensors())\n"
    )
    assert run_python(code, *files).stderr == ""
    text = run_python(code, *files, RUNAI_STREAMER_LOG_TO_STDERR="1").stderr
    assert "[INFO] [RunAI Streamer] Overall time to stream" in text
    text = run_python(
        code,
        *files,
        RUNAI_STREAMER_LOG_TO_STDERR="1",
        RUNAI_STREAMER_LOG_LEVEL="ERROR",
    ).stderr
    assert text == ""


def test_paths_may_be_path_objects(folder, tensors) -> None:
    assert set(load(sorted(folder.glob("*.safetensors")))) == set(tensors)
    assert runai_model_streamer.list_safetensors(folder) == list_safetensors(str(folder))
