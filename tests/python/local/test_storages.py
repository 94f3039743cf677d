"""A tensor is used as any other: each has a storage of its own, exactly as large as the tensor."""

from __future__ import annotations

import copy
import io
import pickle
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer, load_file
from runai_model_streamer import _native_api as native
from runai_model_streamer._device import dlpack
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from tests.support.models import MIB, load, same
from tests.support.processes import python

MODEL = {
    "norm": torch.linspace(-1, 1, 64),
    "scale": torch.tensor(3.5),
    "flag": torch.tensor(True),
    "none": torch.empty(0, 4),
    "half": torch.linspace(-2, 2, 3 * 7).reshape(3, 7).half(),
    "long": torch.arange(10),
    "complex": torch.complex(torch.arange(4.0), torch.ones(4)),
    "weight": torch.linspace(0, 1, 64 * 64).reshape(64, 64).bfloat16(),
    "other": torch.linspace(1, 2, 64 * 64).reshape(64, 64).bfloat16(),
    "float8": torch.linspace(0, 1, 32).to(torch.float8_e4m3fn),
    "large": torch.linspace(0, 1, 300 * 1000).reshape(300, 1000),
}


@pytest.fixture(params=["mapped", "buffered"])
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pages of the file, and memory of the engine."""
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", request.param)
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(MODEL, path)
    return path


def anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def saved(what: object) -> bytes:
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


def test_a_storage_is_as_large_as_its_tensor(strategy: str, path: Path) -> None:
    tensors = load(path)
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        assert storage.nbytes() == tensor.nbytes, name
        assert tensor.storage_offset() == 0 and tensor.is_contiguous()
        assert tensor._base is None and not tensor.requires_grad
        assert storage.data_ptr() == tensor.data_ptr()
        assert str(storage.device) == str(tensor.device) == "cpu"
    places = [tensor.data_ptr() for tensor in tensors.values() if tensor.numel()]
    assert len(set(places)) == len(places)


def test_chunks_of_bytes_have_storages_of_their_own(strategy: str, path: Path) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, path, 0, [100, 0, 1, 200_000])])
        chunks = [chunk for _, _, chunk in streamer.get_chunks()]
    assert [chunk.untyped_storage().nbytes() for chunk in chunks] == [100, 0, 1, 200_000]
    assert b"".join(chunk.numpy().tobytes() for chunk in chunks) == path.read_bytes()[:200_101]


def test_a_slice_has_a_storage_of_its_own(strategy: str, path: Path) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.open_files([path])
        part = streamer.get_slice("weight")[3:5]
    assert part.untyped_storage().nbytes() == part.nbytes and part._base is None
    assert torch.equal(part, MODEL["weight"][3:5])


@pytest.mark.parametrize("name", [name for name in MODEL if name != "float8"])
def test_saved_bytes_are_those_of_one_tensor(strategy: str, name: str, path: Path) -> None:
    tensor = load(path)[name]
    assert len(saved(tensor)) == len(saved(MODEL[name].clone()))
    assert len(pickle.dumps(tensor)) <= len(pickle.dumps(MODEL[name].clone())) + 64
    assert same(torch.load(io.BytesIO(saved(tensor))), MODEL[name])
    assert same(pickle.loads(pickle.dumps(tensor)), MODEL[name])


def test_tensors_are_saved_together(strategy: str, path: Path) -> None:
    tensors = load(path)
    again = torch.load(io.BytesIO(saved(tensors)))
    assert all(same(again[name], MODEL[name]) for name in MODEL)


def test_copies_are_small_and_apart(strategy: str, path: Path) -> None:
    tensors = load(path)
    for name, tensor in tensors.items():
        made = copy.deepcopy(tensor)
        assert made.untyped_storage().nbytes() == tensor.nbytes
        made.zero_()
        assert same(tensor, MODEL[name])


def test_each_tensor_can_be_shared_between_processes(strategy: str, path: Path) -> None:
    for name, tensor in load(path).items():
        assert tensor.share_memory_().is_shared() and same(tensor, MODEL[name])


QUEUE = """
import sys, torch, torch.multiprocessing as mp
from runai_model_streamer import SafetensorsStreamer

def child(queue, back):
    total = 0.0
    for _ in range(3):
        tensor = queue.get()
        total += float(tensor.double().sum())
        tensor.fill_(5)
    back.put(total)

if __name__ == "__main__":
    mp.set_sharing_strategy(sys.argv[2])
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([sys.argv[1]])
        tensors = dict(streamer.get_tensors())
    context = mp.get_context("spawn")
    queue, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=child, args=(queue, back))
    process.start()
    for tensor in tensors.values():
        queue.put(tensor)
    total = back.get()
    process.join()
    assert total == 500_030, total
    assert all(float(tensor[-1]) == 5 for tensor in tensors.values())
    print("fine")
"""


@pytest.mark.parametrize("sharing", ["file_descriptor", "file_system"])
def test_a_queue_to_another_process(strategy: str, sharing: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    ones = {"a": torch.ones(10), "b": torch.ones(20), "c": torch.ones(500_000)}
    safetensors.torch.save_file(ones, path)
    program = tmp_path / "program.py"
    program.write_text(QUEUE)
    run = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], {}, '__main__')"
    assert python(run, program, path, sharing).strip() == "fine"


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )


@pytest.fixture
def module(strategy: str, tmp_path: Path) -> nn.Module:
    """A module whose parameters are tensors that were streamed."""
    path = tmp_path / "layers.safetensors"
    safetensors.torch.save_file(layers().state_dict(), path)
    module = layers()
    module.load_state_dict(load(path), assign=True)
    return module


def test_tensors_can_be_trained(module: nn.Module) -> None:
    """In-place changes of one tensor (counters of batches) are none of those of another."""
    data = torch.randn(2, 3, 16, 16)
    reference = layers()
    for one in (module, reference):
        one.train()
        one(data).sum().backward()
        torch.optim.SGD(one.parameters(), 0.1).step()
    for name, tensor in module.state_dict().items():
        assert torch.allclose(tensor, reference.state_dict()[name])


def test_version_counters_are_apart(strategy: str, path: Path) -> None:
    tensors = load(path)
    before = {name: tensor._version for name, tensor in tensors.items()}
    tensors["norm"].add_(1)
    after = {name: tensor._version for name, tensor in tensors.items()}
    assert after == {**before, "norm": before["norm"] + 1}


def test_safetensors_saves_and_loads_a_module(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "again.safetensors"
    safetensors.torch.save_model(module, path)
    safetensors.torch.load_model(module, path)
    found, wanted = safetensors.torch.load_file(path), layers().state_dict()
    assert set(found) == set(wanted) and all(same(found[name], wanted[name]) for name in wanted)


def test_no_weights_are_taken_for_shared(module: nn.Module) -> None:
    """By the rules of other libraries: device, place and size of the storage; or its place."""
    by_storage, by_place = defaultdict(list), defaultdict(list)
    for name, tensor in module.state_dict().items():
        storage = tensor.untyped_storage()
        by_storage[tensor.device, storage.data_ptr(), storage.nbytes()].append(name)
        by_place[storage.data_ptr()].append(name)
    assert all(len(names) == 1 for names in [*by_storage.values(), *by_place.values()])


def test_sizes_change_as_those_of_safetensors_tensors_do(strategy: str, path: Path) -> None:
    def outcome(change: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> str:
        try:
            change(tensor)
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return f"{tuple(tensor.shape)} {tensor.untyped_storage().nbytes()}"

    changes: list[Callable[[torch.Tensor], object]] = [
        lambda tensor: tensor.resize_(2, 3),
        lambda tensor: tensor.resize_(1000, 1000),
        lambda tensor: tensor.untyped_storage().resize_(0),
        lambda tensor: tensor.set_(),
    ]
    for change in changes:
        ours, theirs = load(path), safetensors.torch.load_file(path)
        for name in ("norm", "large"):
            assert outcome(change, ours[name]) == outcome(change, theirs[name])
        assert all(same(ours[name], MODEL[name]) for name in MODEL if name not in ("norm", "large"))


SHARDED = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from runai_model_streamer import load_file
store = dist.HashStore()
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
module.load_state_dict(load_file(sys.argv[1]), assign=True)
for layer in (*module, module):
    fully_shard(layer)
for _ in range(2):
    module(torch.ones(4, 8)).sum().backward()
assert all(parameter.grad is not None for parameter in module.parameters())
module.unshard()
expected = load_file(sys.argv[1])
found = module.state_dict()
assert all(torch.equal(found[name].full_tensor(), expected[name]) for name in expected)
dist.destroy_process_group()
print("fine")
"""


def test_parameters_are_sharded_and_gathered(tmp_path: Path) -> None:
    from torch.distributed import fsdp

    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("fully_shard() of this torch needs a GPU")
    path = tmp_path / "a.safetensors"
    module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    safetensors.torch.save_file(module.state_dict(), path)
    assert python(SHARDED, path).splitlines()[-1] == "fine"


def test_what_is_written_to_one_shows_in_no_other(strategy: str, path: Path) -> None:
    tensors = load(path)
    for tensor in tensors.values():
        others = {name: other.clone() for name, other in tensors.items() if other is not tensor}
        tensor.copy_(torch.zeros_like(tensor))
        assert all(same(tensors[name], others[name]) for name in others)


def test_compiled_code_takes_them(strategy: str, path: Path) -> None:
    tensors = load(path)

    def forward(weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        return (weight.float() @ norm).relu().sum()

    compiled = torch.compile(forward, backend="eager", fullgraph=True)
    expected = forward(MODEL["weight"], MODEL["norm"])
    assert torch.equal(compiled(tensors["weight"], tensors["norm"]), expected)
    with torch.inference_mode():
        assert torch.equal(compiled(tensors["weight"], tensors["norm"]), expected)


def test_any_thread_drops_them(strategy: str, path: Path) -> None:
    """Also one that does not hold the GIL: autograd frees what it saved in a thread of its own."""
    for _ in range(5):
        tensors = list(load(path).values())
        grown = [tensor.requires_grad_() for tensor in tensors if tensor.dtype == torch.float32]
        result = sum((tensor * tensor).sum() for tensor in grown)
        del grown
        threads = [threading.Thread(target=tensors.pop) for _ in range(len(tensors) - 1)]
        for thread in threads:
            thread.start()
        result.backward()
        for thread in threads:
            thread.join()
        del result, tensors
    assert same(load(path)["large"], MODEL["large"])


@pytest.fixture
def older_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A torch that imports no dtype but bytes."""
    from runai_model_streamer._formats.safetensors import tensors

    taken = dlpack._is_taken

    def only_bytes(
        factory: native.TensorFactory, name: str, dtype: torch.dtype, packed: int
    ) -> bool:
        return dtype == torch.uint8 and taken(factory, name, dtype, packed)

    monkeypatch.setattr(dlpack, "_is_taken", only_bytes)
    tensors._factory.cache_clear()
    yield
    tensors._factory.cache_clear()


@pytest.mark.usefixtures("older_torch")
def test_a_torch_that_imports_bytes_only(strategy: str, path: Path) -> None:
    tensors = load(path)
    for name, tensor in tensors.items():
        assert same(tensor, MODEL[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes and tensor._base is None
        assert tensor.shape == MODEL[name].shape and tensor.is_contiguous()


def test_this_torch_imports_every_dtype() -> None:
    """Or the slower way is taken without anybody noticing."""
    factory = dlpack.make_factory(safetensors_to_torch_dtype, {"F4": 2})
    for name, dtype in safetensors_to_torch_dtype.items():
        assert dlpack._is_taken(factory, name, dtype, 2 if name == "F4" else 1), name


class TestTensorFactory:
    def test_a_tensor_that_nobody_takes_frees_its_memory(self) -> None:
        def refuse(capsule: object) -> object:
            raise LookupError("not taken")

        factory = native.TensorFactory(refuse, refuse)
        factory.add_type("U8", 1, 8, 1, 1)
        before = anonymous_bytes()
        for _ in range(50):
            buffer = native.Buffer.allocate([8 * MIB])
            memoryview(buffer)[:] = bytes(8 * MIB)
            with pytest.raises(LookupError):
                factory.tensor(buffer, 0, "U8", (8 * MIB,))
        assert anonymous_bytes() - before < 64 * MIB

    def test_what_makes_no_tensor(self) -> None:
        factory = dlpack.byte_factory()
        buffer = native.Buffer.allocate([10])
        with pytest.raises(IndexError, match="ends behind its memory"):
            factory.tensor(buffer, 0, "U8", (11,))
        with pytest.raises(IndexError, match="ends behind its memory"):
            factory.tensor(buffer, 11, "U8", (1,))
        with pytest.raises(KeyError):
            factory.tensor(buffer, 0, "F32", (1,))
        with pytest.raises(IndexError, match="no description"):
            factory.tensors(buffer, [], 0)
        with pytest.raises(TypeError):
            factory.tensor(buffer, 0, "U8", ("x",))

    def test_ranges_of_a_buffer_are_aligned(self) -> None:
        buffer = native.Buffer.allocate([1, 0, 100, 3])
        assert buffer.positions == [0, 64, 64, 192]
        data = torch.arange(104, dtype=torch.uint8)
        for start, end in ((50, 104), (0, 1), (1, 50)):
            buffer.put(start, data.data_ptr() + start, end - start)
        memory = memoryview(buffer)
        assert bytes(memory[0:1]) + bytes(memory[64:164]) + bytes(memory[192:195]) == bytes(
            range(104)
        )
        with pytest.raises(IndexError):
            buffer.put(104, data.data_ptr(), 1)


def test_load_file_gives_them_too(strategy: str, path: Path) -> None:
    tensors = load_file(path)
    assert all(same(tensors[name], MODEL[name]) for name in MODEL)
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in tensors.values())
