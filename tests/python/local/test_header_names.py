"""Names in headers: each once, whatever characters they have."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._errors import StreamerError
from tests.support.models import load, same, write

PLACE = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a":{{{PLACE}}},"a":{{{PLACE}}}}}',
        f'{{"a":{{{PLACE}}},"a":{{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}}}',
        f'{{"a":{{"dtype":"F32",{PLACE}}}}}',
        f'{{"a":{{{PLACE}}},"__metadata__":{{"k":"v","k":"v"}}}}',
        f'{{"__metadata__":{{}},"a":{{{PLACE}}},"__metadata__":{{}}}}',
        f'{{"a\\"b":{{{PLACE}}},"a\\"b":{{{PLACE}}}}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StreamerError, match="duplicate name"):
        load(write(tmp_path / "a.safetensors", text.encode(), b"1234"))


@pytest.mark.parametrize("name", ['a"b', '"', "a\\b", "ä\u2028", "dtype", "a\nb"])
def test_a_name_of_any_characters_is_taken(tmp_path: Path, name: str) -> None:
    tensor = torch.arange(3.0)
    save_file({name: tensor, "other": tensor + 1}, tmp_path / "a.safetensors", {'k"': '"v'})
    found = load(tmp_path / "a.safetensors")
    assert set(found) == {name, "other"} and same(found[name], tensor)


def test_the_garbage_collector_has_no_work_with_a_common_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(())}, tmp_path / "a.safetensors")
    with SafetensorsStreamer() as streamer:
        streamer.open_files([tmp_path / "a.safetensors"])
        (tensors,) = streamer.files_to_tensors_metadata.values()
    assert [tensor.name for tensor in tensors] == ["a", "b"]
    assert not any(gc.is_tracked(tensor) for tensor in tensors)


def test_descriptions_of_tensors_share_what_is_equal(tmp_path: Path) -> None:
    """A checkpoint may have a million tensors, of few shapes."""
    shapes = [(), (300, 2), (400,), (0, 5)] * 4
    tensors = {f"t{index:02}": torch.ones(shape) for index, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "a.safetensors")
    with SafetensorsStreamer() as streamer:
        streamer.open_files([tmp_path / "a.safetensors"])
        found = streamer.files_to_tensors_metadata[0]
    assert len({id(one.shape) for one in found}) == 4
    assert {one.name: one.shape for one in found} == {n: t.shape for n, t in tensors.items()}
    for one, other in itertools.pairwise(found):
        assert one.end == other.start
        assert one.end - one.start == tensors[one.name].nbytes
