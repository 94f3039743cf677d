"""Sections 2.1 and 3: the weight iterator that every consumer has, and what its tensors are."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import DistributedStreamer, FileChunks, SafetensorsStreamer
from tests.support.models import check_same

Tensors = dict[str, torch.Tensor]


def iterate(files: list[str], **arguments):
    """The loop of vLLM and SGLang."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, device="cpu", is_distributed=False, **arguments)
        total = sum(len(m) for m in streamer.files_to_tensors_metadata.values())
        count = 0
        for name, tensor in streamer.get_tensors():
            count += 1
            yield name, tensor
        assert count == total


def test_every_tensor_of_the_header_is_yielded_empty_and_scalar_too(files, tensors) -> None:
    check_same(dict(iterate(files)), tensors)


def test_metadata_is_complete_when_stream_files_returns(files, tensors) -> None:
    with SafetensorsStreamer() as streamer:
        assert streamer.stream_files(files) is None
        assert set(streamer.files_to_tensors_metadata) == {0, 1}
        metadata = [m for part in streamer.files_to_tensors_metadata.values() for m in part]
        assert {m.name for m in metadata} == set(tensors)
        for m in metadata:
            tensor = tensors[m.name]
            assert tuple(m.shape) == tuple(tensor.shape)
            assert m.get_torch_dtype() == tensor.dtype
            assert m.get_item_count() == tensor.numel()
            assert m.get_element_size() == tensor.element_size()
            assert m.get_bytesize() == tensor.numel() * tensor.element_size()
            assert m.offsets.get_diff() == m.get_bytesize() == m.offsets.end - m.offsets.start
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        assert streamer.total_size == sum(sizes)


def test_header_errors_come_from_stream_files(tmp_path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match="not valid JSON"):
        streamer.stream_files([str(bad)])


def test_order_is_that_of_the_files(files) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        expected = [m.name for part in streamer.files_to_tensors_metadata.values() for m in part]
        assert [name for name, _ in streamer.get_tensors()] == expected


def test_another_default_dtype_does_not_matter(files, tensors) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = dict(iterate(files))
    finally:
        torch.set_default_dtype(before)
    check_same(got, tensors)


def test_a_default_device_does_not_matter(files, tensors) -> None:
    with torch.device("meta"):
        got = dict(iterate(files))
    assert all(tensor.device.type == "cpu" for tensor in got.values())
    check_same(got, tensors)


def test_tensors_stay_valid_after_everything_is_closed(files, tensors) -> None:
    got = dict(iterate(files))
    gc.collect()
    again = dict(iterate(files))  # another load writes to no memory of the first
    for tensor in again.values():
        if tensor.is_floating_point():
            tensor.fill_(0)
    check_same(got, tensors)


def test_tensors_are_plain_writable_and_markable(files) -> None:
    for _, tensor in iterate(files):
        assert type(tensor) is torch.Tensor
        assert str(tensor.device) == "cpu"
        assert not tensor.requires_grad
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % tensor.element_size() == 0
        tensor.zero_()
        # SGLang's marks.
        setattr(tensor, "_sglang_runai_streamer_tensor", True)  # noqa: B010
        setattr(tensor.untyped_storage(), "_sglang_runai_streamer_tensor", True)  # noqa: B010
        view = tensor.detach().view(-1)
        assert getattr(view.untyped_storage(), "_sglang_runai_streamer_tensor", False) is True


def test_odd_offsets_are_aligned_to_the_element(tmp_path) -> None:
    # 13 bytes first, so that the next tensor lies at an odd place of the file.
    tensors = {
        "a": torch.arange(13, dtype=torch.uint8),
        "b": torch.randn(1000, dtype=torch.float64),
    }
    import json
    import struct

    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [13], "data_offsets": [0, 13]},
            "b": {"dtype": "F64", "shape": [1000], "data_offsets": [13, 8013]},
        }
    ).encode()
    path = tmp_path / "odd.safetensors"
    data = tensors["a"].numpy().tobytes() + tensors["b"].numpy().tobytes()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    got = dict(iterate([str(path)]))
    check_same(got, tensors)
    assert got["b"].data_ptr() % 8 == 0


def test_duplicate_names_in_two_files_are_both_yielded(tmp_path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "1.safetensors")
    save_file({"a": torch.ones(3)}, tmp_path / "2.safetensors")
    got = list(iterate([str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")]))
    assert [(name, float(tensor.sum())) for name, tensor in got] == [("a", 0.0), ("a", 3.0)]


def test_no_files_is_legal() -> None:
    assert list(iterate([])) == []


def test_a_generator_may_be_abandoned(files, tensors) -> None:
    for _ in range(5):
        weights = iterate(files)
        next(weights)
        del weights
        gc.collect()
    closed = iterate(files)
    next(closed)
    closed.close()
    check_same(dict(iterate(files)), tensors)


def test_an_exception_of_the_model_passes_through(files) -> None:
    weights = iterate(files)
    next(weights)
    with pytest.raises(KeyError, match="of the model"):
        weights.throw(KeyError("of the model"))


def test_two_streamers_at_once(files, tensors) -> None:
    got: list[Tensors] = [{}, {}]
    for one, two in zip(iterate(files), iterate(files), strict=True):
        got[0][one[0]] = one[1]
        got[1][two[0]] = two[1]
    check_same(got[0], tensors)
    check_same(got[1], tensors)


def test_tensors_are_readable_from_other_threads(files, tensors) -> None:
    got: Tensors = {}
    threads = []
    for name, tensor in iterate(files):
        thread = threading.Thread(target=lambda n=name, t=tensor: got.update({n: t.clone()}))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    check_same(got, tensors)


def test_keeping_a_small_tensor_pins_no_large_memory(tmp_path) -> None:
    tensors = {}
    for i in range(20):
        tensors[f"{i:02d}.big"] = torch.zeros(1 << 20, dtype=torch.uint8)
        tensors[f"{i:02d}.small"] = torch.ones(64, dtype=torch.uint8)
    save_file(tensors, tmp_path / "m.safetensors")
    kept = [t for n, t in iterate([str(tmp_path / "m.safetensors")]) if n.endswith("small")]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert sum(held.values()) <= 20 * (1 << 20) // 4


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu")])
def test_every_name_of_the_host_is_accepted(files, tensors, device) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, device=device)
        check_same(dict(streamer.get_tensors()), tensors)


def test_kept_tensors_of_stream_file_stay_valid(files, tensors) -> None:
    # The state-dict helpers of diffusion programs.
    state = {}
    with SafetensorsStreamer() as streamer:
        for path in files:
            streamer.stream_file(path)
            for name, tensor in streamer.get_tensors():
                state[name] = tensor.to("cpu")
    del streamer
    gc.collect()
    check_same(state, tensors)


@pytest.mark.parametrize("names", ["big", []])
def test_tensor_names_must_be_a_list_of_names(files, names) -> None:
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError):
        streamer.stream_files(files, tensor_names=names)


def test_tensor_names_choose_and_unknown_ones_are_named(files, tensors) -> None:
    assert set(dict(iterate(files, tensor_names=["big", "ids"]))) == {"big", "ids"}
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match="missing\\.name"):
        streamer.stream_files(files, tensor_names=["big", "missing.name"])


def test_prepare_request_returns_the_tensors_of_each_file(files, tensors) -> None:
    from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request

    with DistributedStreamer() as streamer:
        metadata = prepare_request(streamer, files, None)
    names = [[tensor.name for tensor in part] for _, part, _ in metadata]
    assert sorted(name for part in names for name in part) == sorted(tensors)
    for offset, part, sizes in metadata:
        assert offset > 8
        assert sizes == [m.get_bytesize() for m in part]


def test_chunks_by_hand_become_tensors_by_their_metadata(files, tensors) -> None:
    """The iterator of tpu-inference: requests of one's own, then get_tensors()."""
    from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request

    with SafetensorsStreamer() as streamer:
        metadata = prepare_request(streamer.file_streamer, files, None)
        requests = []
        for index, (offset, part, sizes) in enumerate(metadata):
            streamer.files_to_tensors_metadata[index] = part
            requests.append(FileChunks(index, files[index], offset, sizes))
        streamer.file_streamer.stream_files(
            requests, credentials=None, device="cpu", is_distributed=False
        )
        check_same(dict(streamer.get_tensors()), tensors)


def test_get_chunks_gives_rows_of_bytes(files) -> None:
    content = Path(files[0]).read_bytes()
    with DistributedStreamer() as streamer:
        streamer.stream_files([FileChunks(7, files[0], [0, 100, 50], [10, 20, 0])])
        chunks = {(i, r): t for i, r, t in streamer.get_chunks()}
    assert set(chunks) == {(7, 0), (7, 1), (7, 2)}
    assert chunks[7, 0].dtype == torch.uint8
    assert chunks[7, 0].shape == (1, 10)
    assert bytes(chunks[7, 0].flatten().tolist()) == content[:10]
    assert bytes(chunks[7, 1].flatten().tolist()) == content[100:120]


def test_file_chunks_takes_a_number_or_a_list() -> None:
    assert FileChunks(1, "p", 100, [5, 6, 7]).offsets == [100, 105, 111]
    assert FileChunks(1, "p", [100, 3], [5, 6]).offsets == [100, 3]
    assert FileChunks.contiguous(1, "p", 100, [5, 6]).total_size() == 11
    assert FileChunks(1, "p", 0, [5, 6]).max_chunk_size() == 6
