"""Loads under kernels with larger pages, as tests/support/large_pages.c plays them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.processes import python

from .conftest import STRATEGIES, preload

LOAD = """
import ctypes, sys
import torch
from safetensors.torch import load_file
from runai_model_streamer import SafetensorsStreamer

process = ctypes.CDLL(None)
before = process.large_pages_refused()
path = sys.argv[1]
expected = load_file(path)
assert process.getpagesize() == int(sys.argv[2]) << 10
targets = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
for into in (None, targets):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], into=into)
        found = dict(streamer.get_tensors())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    found.clear()
print(process.large_pages_refused() - before)
"""


@pytest.fixture(scope="session")
def large_pages(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = Path(__file__).parents[2] / "support" / "large_pages.c"
    return preload(source, tmp_path_factory.mktemp("large_pages"))


@pytest.mark.parametrize("kib", [16, 64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_call_is_refused_and_every_byte_is_right(
    strategy: str, kib: int, tmp_path: Path, large_pages: str
) -> None:
    # A header of more than one page of 4 KiB, small tensors, and one that spans huge pages.
    tensors = {f"a tensor of number {i:05}": torch.full((i % 7 + 1,), float(i)) for i in range(200)}
    tensors["large"] = torch.arange(1_300_001, dtype=torch.float32)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    refused = python(
        LOAD,
        path,
        kib,
        LD_PRELOAD=large_pages,
        LARGE_PAGES_KIB=str(kib),
        RUNAI_STREAMER_FS_STRATEGY=strategy,
    )
    assert refused == "0"
