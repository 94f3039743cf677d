"""Sources over the network, to device memory."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gpu_rows import RangeServer
from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._errors import StreamerUnsupportedError
from tests.support.cuda_standin import Standin
from tests.support.servers.canned import HttpServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(RangeServer, directory=str(tmp_path))
    made = HttpServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize("memory_limit", ["0", "8388608", ""])
def test_a_load_over_http_to_a_device_has_every_byte(
    standin: Standin,
    checkpoint: list[Path],
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    memory_limit: str,
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", memory_limit)
    urls = [server + path.name for path in checkpoint]
    with SafetensorsStreamer() as streamer:
        try:
            streamer.stream_files(urls, device="cuda:0")
        except StreamerUnsupportedError:
            pytest.skip("this build has no object storage")
        tensors = dict(streamer.get_tensors())
    wanted = {name: tensor for path in checkpoint for name, tensor in load_file(path).items()}
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensors[name], tensor), name
