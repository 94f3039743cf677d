"""One rank of benchmarks.slices: `python -m benchmarks.slices_rank JSON`.

Does the work that the JSON names and prints what came out as one line of JSON. Checks every result
against the files, bit by bit, behind the measurement.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open

from runai_model_streamer import SafetensorsStreamer, load_file, load_model

Job = dict[str, Any]
# Layers that tensor parallelism divides by rows; those of COLUMNS by columns.
COLUMNS = ("down_proj", "o_proj")


def share(name: str, shape: Any, job: Job) -> tuple[slice, ...]:
    """What the rank keeps, by the dimension that the job names; all ranks keep the norms."""
    if len(shape) < 2:
        return ()
    dimension = job.get("dimension", int(any(part in name for part in COLUMNS)))
    size, rank, ranks = shape[dimension], job["rank"], job["ranks"]
    part = slice(size * rank // ranks, size * (rank + 1) // ranks)
    return (slice(None),) * dimension + (part,)


class Memory:
    """The most anonymous memory while it is entered, sampled."""

    def __enter__(self) -> Memory:
        self.most = self.first = self._now()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(0.002):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
        return 0


@contextmanager
def measured(result: dict[str, Any]) -> Iterator[None]:
    if dist.is_initialized():
        dist.barrier()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    with Memory() as memory:
        yield
    result["seconds"] = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    result["cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result["memory"] = memory.most - memory.first


def check(job: Job, found: dict[str, torch.Tensor], parts: bool = True) -> None:
    count = 0
    for path in job["local"]:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name not in found:
                    continue
                count += 1
                part = file.get_slice(name)
                index = share(name, part.get_shape(), job) if parts else ()
                whole = file.get_tensor(name)[index].contiguous()
                got = found[name].contiguous()
                if got.shape != whole.shape or not torch.equal(
                    got.view(torch.uint8), whole.view(torch.uint8)
                ):
                    raise AssertionError(f"{name} differs")
    if count != len(found):
        raise AssertionError("there are tensors that no file has")


def slices(job: Job) -> dict[str, Any]:
    """Declared slices."""
    result: dict[str, Any] = {}
    with measured(result), SafetensorsStreamer() as streamer:
        streamer.stream_files(
            job["files"],
            is_distributed=job.get("shared", False),
            tensor_names=job.get("names"),
            slices=lambda name, shape, dtype: share(name, shape, job),
        )
        found = dict(streamer.get_tensors())
        stats = streamer.stats()
    check(job, found)
    return {**result, "kept": stats.bytes, "read": stats.bytes_read, "requests": stats.requests}


def whole(job: Job) -> dict[str, Any]:
    """Whole tensors, of which parts are taken then."""
    result: dict[str, Any] = {}
    with measured(result):
        tensors = {}
        for path in job["files"]:
            tensors.update(load_file(path))
        found = {name: _own(t[share(name, t.shape, job)]) for name, t in tensors.items()}
        del tensors
    check(job, found)
    return {**result, "kept": sum(t.nbytes for t in found.values())}


def loop(job: Job) -> dict[str, Any]:
    """Whole tensors, one at a time, of which parts are taken at once."""
    result: dict[str, Any] = {}
    found = {}
    with measured(result), SafetensorsStreamer() as streamer:
        streamer.stream_files(job["files"])
        for name, tensor in streamer.get_tensors():
            found[name] = _own(tensor[share(name, tensor.shape, job)])
        stats = streamer.stats()
    check(job, found)
    return {**result, "kept": sum(t.nbytes for t in found.values()), "read": stats.bytes_read}


def _own(part: torch.Tensor) -> torch.Tensor:
    return part.clone(memory_format=torch.contiguous_format)


def everything(job: Job) -> dict[str, Any]:
    """Whole tensors to every rank."""
    result: dict[str, Any] = {}
    with measured(result), SafetensorsStreamer() as streamer:
        streamer.stream_files(job["files"], is_distributed=job.get("shared", False))
        for _ in streamer.get_tensors():
            pass
        stats = streamer.stats()
    return {**result, "kept": stats.bytes, "read": stats.bytes_read}


def safetensors_slices(job: Job) -> dict[str, Any]:
    """get_slice() of safetensors. It gives views of the file, which are read when they are touched:
    the copy is what a load of ours gives."""
    result: dict[str, Any] = {}
    found = {}
    with measured(result):
        for path in job["files"]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    found[name] = _own(part[share(name, part.get_shape(), job)])
    check(job, found)
    return result


def _mesh_model(job: Job, device: str) -> torch.nn.Module:
    """Modules with the names of the checkpoint, whose weights FSDP2 shards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Module()
    for path in job["local"]:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                *above, last = name.split(".")
                at = model
                for part in above:
                    if not hasattr(at, part):
                        at.add_module(part, torch.nn.Module())
                    at = getattr(at, part)
                shape = file.get_slice(name).get_shape()
                made = torch.empty(shape, dtype=torch.bfloat16, device=device)
                at.register_parameter(last, torch.nn.Parameter(made, requires_grad=False))
    fully_shard(model, mesh=init_device_mesh("cpu", (job["ranks"],)))
    return model


def _local(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.to_local() for name, tensor in model.state_dict().items()}


def fsdp(job: Job) -> dict[str, Any]:
    """load_model() of a module on meta that FSDP2 shards."""
    model = _mesh_model(job, "meta")
    result: dict[str, Any] = {}
    with measured(result):
        load_model(model, job["files"][0], assign=True)
    local = _local(model)
    check({**job, "dimension": 0}, {n: t for n, t in local.items() if t.dim() > 1})
    return {**result, "kept": sum(tensor.nbytes for tensor in local.values())}


def fsdp_whole(job: Job) -> dict[str, Any]:
    """Whole tensors, and distribute_tensor()."""
    from torch.distributed.tensor import distribute_tensor

    model = _mesh_model(job, "meta")
    own: dict[str, Any] = dict(model.named_parameters())
    result: dict[str, Any] = {}
    with measured(result):
        state = {}
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(job["files"])
            for name, tensor in streamer.get_tensors():
                state[name] = distribute_tensor(tensor, own[name].device_mesh, own[name].placements)
        model.load_state_dict(state, assign=True)
    local = _local(model)
    check({**job, "dimension": 0}, {n: t for n, t in local.items() if t.dim() > 1})
    return {**result, "kept": sum(tensor.nbytes for tensor in local.values())}


def _dcp(job: Job, load: Callable[[dict[str, Any], list[str]], None]) -> dict[str, Any]:
    """Of `job["ranks"]` ranks, which hold dimension 0 of each matrix by parts, this one alone."""
    whole: dict[str, Any] = {}
    for path in job["local"]:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                whole[name] = file.get_slice(name).get_shape()
    local = {
        name: torch.zeros([size // (job["ranks"] if len(shape) > 1 else 1), *rest]).bfloat16()
        for name, shape in whole.items()
        for size, *rest in [shape]
    }
    state = dict(local)
    if job["ranks"] > 1:
        from torch.distributed.tensor import DTensor, Shard, init_device_mesh
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group(
            "fake", rank=job["rank"], world_size=job["ranks"], store=FakeStore()
        )
        mesh = init_device_mesh("cpu", (job["ranks"],))
        for name, tensor in local.items():
            if tensor.dim() > 1:
                state[name] = DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False)
    result: dict[str, Any] = {}
    with measured(result):
        load(state, job["local"])
    check({**job, "dimension": 0}, local, parts=job["ranks"] > 1)
    return result


def _by_reader(make: Callable[[str], Any]) -> Callable[[dict[str, Any], list[str]], None]:
    import torch.distributed.checkpoint as dcp

    def load(state: dict[str, Any], files: list[str]) -> None:
        dcp.load(state, storage_reader=make(str(Path(files[0]).parent)), no_dist=True)

    return load


def dcp_ours(job: Job) -> dict[str, Any]:
    from runai_model_streamer.dcp import SafetensorsReader

    return _dcp(job, _by_reader(SafetensorsReader))


def dcp_torch(job: Job) -> dict[str, Any]:
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    return _dcp(job, _by_reader(HuggingFaceStorageReader))


def dcp_whole_files(job: Job) -> dict[str, Any]:
    """Whole files into memory, as the private reader of earlier versions of torch read them."""
    from safetensors import deserialize

    def load(state: dict[str, Any], files: list[str]) -> None:
        for path in files:
            for name, found in deserialize(Path(path).read_bytes()):
                own = state[name]
                local = own.to_local() if hasattr(own, "to_local") else own
                tensor = torch.frombuffer(found["data"], dtype=torch.bfloat16)
                tensor = tensor.view(found["shape"])
                first = 0 if local.shape == tensor.shape else job["rank"] * len(local)
                local.copy_(tensor[first : first + len(local)])

    return _dcp(job, load)


WORKS = {
    work.__name__: work
    for work in (
        *(slices, whole, loop, everything, safetensors_slices),
        *(fsdp, fsdp_whole, dcp_ours, dcp_torch, dcp_whole_files),
    )
}


def main() -> None:
    job: Job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if job["ranks"] > 1 and "port" in job:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(job["port"]),
            "RANK": str(job["rank"]),
            "WORLD_SIZE": str(job["ranks"]),
            "LOCAL_RANK": str(job["rank"]),
        }
        dist.init_process_group("gloo")
    print(json.dumps(WORKS[job["work"]](job)), flush=True)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
