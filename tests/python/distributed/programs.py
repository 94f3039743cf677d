"""Programs of ranks without faults. Each function is a program, and returns its result."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from runai_model_streamer import FileChunks, SafetensorsStreamer, StreamerError, load_model
from runai_model_streamer._distributed import (
    exchange_thread,
    membership,
    shared_stream,
    transport,
)
from runai_model_streamer._distributed import streamer as module
from runai_model_streamer._formats.safetensors.headers import prepare_request
from runai_model_streamer._session import Session
from tests.python.distributed.job import JOB, digest, my_rank, stream
from tests.support import models
from tests.support import slices as parts
from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.servers import free_port


def use_standin(driver: str) -> Any:
    """Has loads to "cuda:0" end in memory of the stand-in driver; it."""
    from runai_model_streamer._device import cuda as cuda

    standin = Standin(Path(driver))
    standin.reset(device_bytes=JOB.get("device_bytes", 1 << 30))
    os.environ["RUNAI_STREAMER_CUDA_LIBRARY"] = driver
    StandinMemory.standin = standin
    StandinMemory.used = []
    cuda.memory_factory = StandinMemory
    return standin


def shared_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:streamer-staging")


def load() -> dict[str, Any]:
    """Streams everything, and keeps it until the end."""
    tensors = []
    with SafetensorsStreamer() as streamer:
        stream(streamer)
        count = sum(len(file) for file in streamer.files_to_tensors_metadata.values())
        ring = streamer.file_streamer.ring_info()
        mappings = [shared_mappings()]
        for name, tensor in streamer.get_tensors():
            tensors.append((name, tensor))
        stats = streamer.stats()
    mappings.append(shared_mappings())
    return {
        "shared_mappings": mappings,
        "tensors": [(name, digest(tensor)) for name, tensor in tensors],
        "forms": [(str(tensor.dtype), list(tensor.shape)) for _, tensor in tensors],
        "storages": [tensor.untyped_storage().nbytes() for _, tensor in tensors],
        "owned": [tensor.numel() * tensor.element_size() for _, tensor in tensors],
        "count": count,
        "ring": ring,
        "bytes": stats.bytes,
        "notes": stats.notes,
    }


def on_device() -> dict[str, Any]:
    """load() to the stand-in's memory, and what the driver saw."""
    standin = use_standin(JOB["driver"])
    result = load()
    counts = standin.counts()
    return {
        **result,
        "copied": counts.copied_bytes,
        "violations": counts.violations,
        "violation": standin.violation(),
        "pinned": counts.pinned_bytes,
    }


def automatic() -> dict[str, Any]:
    """on_device(), as if the group had NCCL; the page cache of rank JOB["cold"] is said to be cold.

    What moves pieces is gloo all the same.
    """
    membership.backend_of = lambda group, kind: "nccl"
    shared_stream.NcclTransport = lambda store, member, members, timeout, *_: (
        transport.GlooTransport(store, member, members, timeout)
    )
    if JOB["cold"] == my_rank():
        membership.cached_fraction = lambda paths: 0.9
    use_standin(JOB["driver"])

    class NcclMemory(StandinMemory):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.backend = "nccl"

    from runai_model_streamer._device import cuda as cuda

    cuda.memory_factory = NcclMemory
    return load()


def again_and_again() -> dict[str, Any]:
    """Streams of which nothing may be left, though no garbage is collected."""
    gc.disable()
    connections = []
    for _ in range(JOB["times"]):
        with SafetensorsStreamer() as streamer:
            stream(streamer)
            for _ in streamer.get_tensors():
                pass
        exchange_thread.leave_all()
        dist.barrier()
        connections.append(len(os.listdir("/proc/self/fd")))
        dist.barrier()
    return {"connections": connections}


def reborn() -> dict[str, Any]:
    """A stream, and another one in a default group that was made anew."""
    first = load()["tensors"]
    # A rank that is early would connect to the store of the first group. The port comes by a file:
    # a collective would leave tensors to threads of the group.
    path = Path(JOB["results"]) / "port"
    if my_rank() == 0:
        path.write_text(str(free_port()))
    dist.barrier()
    os.environ["MASTER_PORT"] = path.read_text()
    dist.destroy_process_group()
    dist.init_process_group("gloo")
    return {"first": first, **load()}


def keys_left() -> dict[str, Any]:
    """The keys of the store that loads leave behind: a whole one, one that ranks leave early, one
    that fails."""
    store, left = membership.default_store(), []
    for kind in ("whole", "whole", "early", "failing", "whole"):
        with SafetensorsStreamer() as streamer, contextlib.suppress(StreamerError):
            stream(streamer, tensor_names=["none"] if kind == "failing" else None)
            for _ in streamer.get_tensors():
                if kind == "early":
                    break
        exchange_thread.leave_all()
        for _ in range(600):  # a rank that is slow may still be about to delete them
            keys = sorted(key for key in store.list_keys() if "runai" in key)
            if len(keys) == 2 * dist.get_world_size():
                break
            time.sleep(0.05)
        left.append(keys)
        dist.barrier()
    return {"left": left}


def local_then_global() -> dict[str, Any]:
    first = load()["notes"]["distributed"]
    os.environ["RUNAI_STREAMER_DIST_GLOBAL"] = "1"
    return {"first": first, **load()}


def twice() -> dict[str, Any]:
    """Two streamers alive at once, then a third stream in one of them."""
    results = []
    with SafetensorsStreamer() as one, SafetensorsStreamer() as two:
        stream(one)
        stream(two)
        iterators = [one.get_tensors(), two.get_tensors()]
        found: list[list[tuple[str, str]]] = [[], []]
        for pair in zip(*iterators, strict=True):
            for index, (name, tensor) in enumerate(pair):
                found[index].append((name, digest(tensor)))
        results += found
        stream(one)
        results.append([(name, digest(tensor)) for name, tensor in one.get_tensors()])
    return {"results": results}


def iterators() -> dict[str, Any]:
    """A look at the first tensor, a break, two loops in turn, a generator that is closed; then
    another load, which ends the iterators of this one."""
    found: list[tuple[str, str]] = []

    def take(pair: tuple[str, torch.Tensor] | None) -> None:
        if pair is not None:
            found.append((pair[0], digest(pair[1])))

    with SafetensorsStreamer() as streamer:
        stream(streamer)
        take(next(streamer.get_tensors()))
        for number, pair in enumerate(streamer.get_tensors()):
            take(pair)
            if number == 5 + my_rank():
                break
        one, other, closed = (streamer.get_tensors() for _ in range(3))
        take(next(closed))
        closed.close()
        for _ in range(3):
            take(next(one, None))
            take(next(other, None))
        for pair in streamer.get_tensors():
            take(pair)
        ended = ""
        try:
            streamer.get_tensors()
        except StreamerError as error:
            ended = str(error)
        stream(streamer)
        old = streamer.get_tensors()
        next(old)
        dist.barrier()
        stream(streamer)
        try:
            next(old)
        except StreamerError as error:
            ended += f" {type(error).__name__}"
        again = [(name, digest(tensor)) for name, tensor in streamer.get_tensors()]
    return {"results": [found, again], "ended": ended}


def shared_after_another() -> dict[str, Any]:
    """A stream of the inner streamer's, behind one that came to its end, or that failed."""
    with SafetensorsStreamer() as streamer:
        stream(streamer, is_distributed=False)
        first = [name for name, _ in streamer.get_tensors()]
        inner = streamer.file_streamer
        requests = [FileChunks(0, JOB["files"][0], 0, [1 << 20, 1 << 20])]
        rings = []
        for failing in (False, True):
            if failing:
                with contextlib.suppress(ValueError):
                    streamer.stream_files([JOB["bad"]])
            inner.stream_files(requests, is_distributed=True)
            rings.append(inner.ring_info())
            chunks = [digest(chunk) for _, _, chunk in inner.get_chunks()]
    return {"tensors": first, "rings": rings, "chunks": chunks}


def headers_after_a_shared_stream() -> dict[str, Any]:
    """Rank 0 alone reads headers with a streamer whose last stream was shared."""
    with SafetensorsStreamer() as streamer:
        stream(streamer)
        ring = streamer.file_streamer.ring_info()
        names = [name for name, _ in streamer.get_tensors()]
        if my_rank() == 0:
            streamer.open_files(JOB["files"])
            assert streamer.keys() == names
            assert len(prepare_request(streamer.file_streamer, JOB["files"])) == len(JOB["files"])
    return {"ring": ring}


def into() -> dict[str, Any]:
    """Into tensors that exist, but for some."""
    with SafetensorsStreamer() as probe:
        probe.open_files(JOB["files"])
        metadata = [t for file in probe.files_to_tensors_metadata.values() for t in file]
    targets = {t.name: torch.zeros(t.get_torch_shape(), dtype=torch.uint8) for t in metadata[::2]}
    with SafetensorsStreamer() as streamer:
        stream(streamer, into=targets)
        got = dict(streamer.get_tensors())
    same = all(got[name].data_ptr() == target.data_ptr() for name, target in targets.items())
    return {"same": same, "tensors": {name: digest(tensor) for name, tensor in got.items()}}


def only_first() -> dict[str, Any]:
    """Rank 0 streams, the others do not."""
    if my_rank() > 0:
        return {"tensors": []}
    with SafetensorsStreamer() as streamer:
        stream(streamer, is_distributed=JOB["is_distributed"])
        return {"tensors": [(name, digest(tensor)) for name, tensor in streamer.get_tensors()]}


def replaced() -> dict[str, Any]:
    """As a host that wants each rank by itself."""
    assert module.dist is dist
    rank = dist.get_rank()
    module._distributedStreamerParams.find_local_ranks = lambda self: (1, rank, [[rank]])
    return only_first()


def headers_alone() -> dict[str, Any]:
    """Rank 0 looks at files by itself: behind a shared stream, in the middle of one, and behind one
    that failed. The others do not call."""
    inspected = []

    def inspect(streamer: SafetensorsStreamer) -> None:
        if my_rank() == 0:
            streamer.open_files(JOB["files"])
            inspected.append(streamer.keys())
            inspected.append(
                [t.name for _, file, _ in prepare_request(streamer, JOB["files"]) for t in file]
            )
            streamer.file_streamer.open_files(JOB["files"])

    with SafetensorsStreamer() as streamer:
        stream(streamer)
        names = [name for name, _ in streamer.get_tensors()]
        dist.barrier()
        inspect(streamer)
        dist.barrier()
        with contextlib.suppress(StreamerError):
            stream(streamer, tensor_names=["no.such.tensor"])
        dist.barrier()
        inspect(streamer)
        dist.barrier()
        stream(streamer)
        iterator = streamer.get_tensors()
        next(iterator)
        inspect(streamer)
        error = ""
        if my_rank() != 0:
            try:
                for _ in iterator:
                    pass
            except StreamerError as left:
                error = str(left)
        del iterator
    return {"names": names, "inspected": inspected, "left": error, **load()}


def group_without_a_store() -> dict[str, Any]:
    """As init_process_group("mpi") leaves it."""
    from torch.distributed import distributed_c10d

    default = distributed_c10d._get_default_group()
    backend, store = distributed_c10d._world.pg_map[default]
    distributed_c10d._world.pg_map[default] = (backend, None)
    try:
        return load()
    finally:
        distributed_c10d._world.pg_map[default] = (backend, store)


def mesh() -> dict[str, Any]:
    """Two rows of ranks of a DeviceMesh, each a group."""
    from torch.distributed.device_mesh import init_device_mesh

    made = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    errors = []
    with SafetensorsStreamer() as streamer:
        try:
            stream(streamer, process_group=made)
        except StreamerError as error:
            errors.append(str(error))
        stream(streamer, process_group=made["tp"])
        tensors = [(name, digest(tensor)) for name, tensor in streamer.get_tensors()]
        return {"tensors": tensors, "notes": streamer.stats().notes, "errors": errors}


def group() -> dict[str, Any]:
    """The ranks of JOB["ranks"] only, in a group of theirs."""
    made = dist.new_group(JOB["ranks"], backend="gloo")
    with SafetensorsStreamer() as streamer:
        stream(streamer, process_group=made)
        tensors = [(name, digest(tensor)) for name, tensor in streamer.get_tensors()]
        return {"tensors": tensors, "notes": streamer.stats().notes}


def slices() -> dict[str, Any]:
    """Each rank takes its share of the random models with the seeds JOB["seeds"]; with "random",
    other random parts on each rank."""
    if "driver" in JOB:
        use_standin(JOB["driver"])
    model = {
        f"{seed}.{name}": tensor
        for seed in JOB["seeds"]
        for name, tensor in parts.random_model(seed).items()
    }
    if JOB["random"]:
        chosen = parts.random_slices(model, my_rank())
    else:
        chosen = parts.row_slices(model, my_rank(), dist.get_world_size())
    expected = parts.sliced(model, chosen)
    into = {}
    if JOB["into"]:
        into = {n: torch.empty(t.shape, dtype=t.dtype) for n, t in list(expected.items())[::2]}
    with SafetensorsStreamer() as streamer:
        stream(streamer, slices=chosen, into=into or None)
        found = {name: tensor.cpu() for name, tensor in streamer.get_tensors()}
        order = list(found)
        stats = streamer.stats()
    models.check_same(expected, found)
    assert sorted(order) == sorted(expected)
    assert stats.bytes == stats.bytes_asked == sum(t.nbytes for t in expected.values())
    return {"notes": stats.notes, "read": stats.bytes_read, "bytes": stats.bytes}


def _tensors() -> Any:
    """The module of DTensor, which is private before torch 2.5."""
    import torch.distributed._tensor as old
    import torch.distributed.tensor as new

    return new if hasattr(new, "DTensor") else old


def _distribute(tensor: torch.Tensor, mesh: Any, placements: list[Any]) -> Any:
    """The part of `tensor`, which every rank has: since torch 2.6 without communication."""
    distribute = _tensors().distribute_tensor
    if "src_data_rank" in inspect.signature(distribute).parameters:
        distribute = partial(distribute, src_data_rank=None)
    return distribute(tensor, mesh, placements)


def _sharded(mesh: Any) -> dict[str, list[Any]]:
    """Placements by the names of the tensors "a", "b", ..."""
    tensors = _tensors()
    replicate, shard = tensors.Replicate, tensors.Shard
    every = [replicate(), shard(0), shard(1), shard(2)]
    pairs = [[one, other] for one in every for other in every]
    # What FSDP2 makes of parameters that are tensor parallel, and a strided shard alone.
    strided = shard
    if hasattr(tensors.placement_types, "_StridedShard"):  # since torch 2.5
        strided = partial(tensors.placement_types._StridedShard, split_factor=2)
    pairs += [[strided(d), shard(d)] for d in range(3)]
    pairs += [[strided(0), replicate()], [shard(-1), shard(0)]]
    return {f"t{number:02}": pair for number, pair in enumerate(pairs)}


def dtensors() -> dict[str, Any]:
    """Every placement of 2 x 2 ranks, in place, converted, assigned, and as destinations."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    placements = _sharded(mesh)
    whole = load_file(JOB["files"][0])
    expected = {n: _distribute(whole[n], mesh, p).to_local() for n, p in placements.items()}
    asked = []
    submit = Session.submit

    def counted(session: Session, requests: Any, *more: Any) -> None:
        asked.extend(size for request in requests for size in request.sizes)
        submit(session, requests, *more)

    Session.submit = counted

    def model(device: str, dtype: torch.dtype) -> torch.nn.Module:
        made = torch.nn.Module()
        for name, places in placements.items():
            empty = torch.zeros(whole[name].shape, dtype=dtype, device="cpu")
            own = _distribute(empty, mesh, places)
            # Before torch 2.5 distribute_tensor() gives some ranks memory that is not contiguous.
            local = own.to_local().contiguous().to(device)
            own = _tensors().DTensor.from_local(
                local, mesh, places, run_check=False, shape=own.shape, stride=own.stride()
            )
            made.register_parameter(name, torch.nn.Parameter(own))
        return made

    size = sum(local.nbytes for local in expected.values())
    for device, dtype, assign in [
        ("cpu", torch.float32, False),
        ("cpu", torch.float64, False),
        ("cpu", torch.float32, True),
        ("meta", torch.float32, True),
    ]:
        asked.clear()
        one = model(device, dtype)
        before = {name: parameter.placements for name, parameter in one.named_parameters()}
        assert load_model(one, JOB["files"][0], assign=assign) == (set(), [])
        assert sum(asked) == size, (sum(asked), size)
        for name, parameter in one.named_parameters():
            assert parameter.placements == before[name], name
            local = parameter.to_local()
            assert torch.equal(local.to(torch.float32), expected[name]), name
    one = model("cpu", torch.float32)
    asked.clear()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(JOB["files"], into=one)
        found = dict(streamer.get_tensors())
    assert sum(asked) == size
    for name, parameter in one.named_parameters():
        assert found[name] is parameter
        assert torch.equal(parameter.to_local(), expected[name]), name
    return {}


def reshard() -> dict[str, Any]:
    """torch.distributed.checkpoint, into another mesh than the one that was saved."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh

    from runai_model_streamer.dcp import SafetensorsReader

    whole = load_file(JOB["files"][0])
    directory = str(Path(JOB["files"][0]).parent)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    shard = _tensors().Shard
    if JOB["saved"]:
        saved = {n: _distribute(t, mesh, [shard(0)]) for n, t in whole.items()}
        directory = str(Path(JOB["results"]) / "saved")
        dcp.save(
            saved,
            storage_writer=dcp.HuggingFaceStorageWriter(path=directory, save_distributed=True),
        )
        dist.barrier()
    for places in ([shard(1)], [shard(0)], [_tensors().Replicate()]):
        state = {n: _distribute(torch.zeros_like(t), mesh, places) for n, t in whole.items()}
        reader = SafetensorsReader(directory)
        dcp.load(state, storage_reader=reader)
        for name, tensor in state.items():
            own = _distribute(whole[name], mesh, places).to_local()
            assert torch.equal(tensor.to_local(), own), name
        assert reader.stats().bytes == sum(t.to_local().nbytes for t in state.values())
    return {}
