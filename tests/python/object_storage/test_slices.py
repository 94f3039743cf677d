"""Parts of tensors from every storage: their bytes, and few requests for many rows."""

from __future__ import annotations

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from tests.support import models, slices

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
MODEL = slices.random_model(3)


@pytest.mark.parametrize("seed", range(2))
def test_parts_are_those_of_the_whole_tensor(storage, use, seed):
    storage.put("slices.safetensors", models.save(MODEL))
    use(storage.env)
    chosen = slices.random_slices(MODEL, seed)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{storage.uri}/slices.safetensors"], slices=chosen)
        models.check_same(slices.sliced(MODEL, chosen), dict(streamer.get_tensors()))
        stats = streamer.stats()
    assert stats.bytes_read >= stats.bytes == stats.bytes_asked


def test_rows_that_are_near_are_read_at_once(storage, use, no_aborts):
    """A gap of 1 KiB costs less than a request."""
    tensor = torch.randn(1024, 512)
    storage.put("rows.safetensors", models.save({"t": tensor}))
    use(storage.env)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(
            [f"{storage.uri}/rows.safetensors"], slices={"t": (slice(None), slice(256, 512))}
        )
        assert torch.equal(dict(streamer.get_tensors())["t"], tensor[:, 256:])
        stats = streamer.stats()
    assert stats.requests <= 3
    # The gaps at the ends of reads are not read.
    assert tensor.nbytes - 1024 * stats.requests <= stats.bytes_read < tensor.nbytes


def test_rows_of_one_dimension_are_one_range(storage, use, no_aborts):
    tensor = torch.randn(4096, 256)
    storage.put("block.safetensors", models.save({"t": tensor}))
    use(storage.env)
    with SafetensorsStreamer() as streamer:
        uri = f"{storage.uri}/block.safetensors"
        streamer.stream_files([uri], slices={"t": slice(1024, 2048)})
        assert torch.equal(dict(streamer.get_tensors())["t"], tensor[1024:2048])
        assert streamer.stats().bytes_read == 1024 * 1024


@pytest.mark.parametrize("cut", [70_001, 300_000])
def test_bodies_that_end_in_rows_and_between_them(s3_storage, use, cut):
    """Every response ends early: the next request goes on there, in a row or in a gap."""
    tensor = torch.randn(cut // 3000, 2, 3, 1024)  # eight responses
    s3_storage.put("cut.safetensors", models.save({"t": tensor}))
    use(s3_storage.proxied)
    match = s3_storage.read_match + ".* bytes=[1-9]"
    s3_storage.nginx.fault("truncate", bytes=cut, match=match)
    index = (slice(None), slice(None), slice(1, 2), slice(100, 900))
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{s3_storage.uri}/cut.safetensors"], slices={"t": index})
        assert torch.equal(dict(streamer.get_tensors())["t"], tensor[index])
        assert streamer.stats().retries > 0
