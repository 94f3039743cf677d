"""Sources over the network, to device memory."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from benchmarks.gpu_rows import RangeServer
from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._errors import StreamerUnsupportedError
from tests.support.cuda_standin import Standin
from tests.support.servers.canned import Answer, Canned, HttpServer, Seen, ranged


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


def test_an_object_is_copied_before_the_last_header_comes(standin: Standin, tmp_path: Path) -> None:
    """The server holds the header of the last object back until the tensor of the first one was
    asked for."""
    names = ["model-0", "model-1", "model-2"]
    tensors = {name: torch.full((1 << 20,), i, dtype=torch.uint8) for i, name in enumerate(names)}
    files = {f"/{name}.safetensors": save({name: tensor}) for name, tensor in tensors.items()}
    asked, late = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Answer:
        end = int(seen.headers.get("range", "0").rpartition("-")[2])
        if "model-2" in seen.path and not asked.wait(60):
            late.set()
        if "model-0" in seen.path and end > 1 << 19:
            asked.set()
        return ranged(seen, files[seen.path])

    with Canned(answer) as server, SafetensorsStreamer() as streamer:
        streamer.stream_files([server.url + path for path in files], device="cuda:0")
        found = dict(streamer.get_tensors())
    assert not late.is_set()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
