"""One rank, in a process of its own: started by a command with what to do as JSON, or forked from a
process that has imported everything. Writes what came out to RESULTS/RANK.json.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from runai_model_streamer import FileChunks, SafetensorsStreamer
from runai_model_streamer.distributed_streamer import distributed_streamer as module
from runai_model_streamer.distributed_streamer import (
    membership,
    pump,
    shared_stream,
    staging,
    transport,
)

JOB: dict[str, Any] = {}
RANK = -1


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


def describe(error: BaseException) -> dict[str, Any]:
    return {
        "error": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "text": str(error),
        "rank": getattr(error, "rank", None),
    }


def use_standin(driver: str) -> Any:
    """Has loads to "cuda:0" end in memory of the stand-in driver; it."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "cuda_standin"))
    from standin import Standin, StandinMemory

    from runai_model_streamer import cuda

    standin = Standin(Path(driver))
    standin.reset(device_bytes=JOB.get("device_bytes", 1 << 30))
    os.environ["RUNAI_STREAMER_CUDA_LIBRARY"] = driver
    StandinMemory.standin = standin
    StandinMemory.used = []
    cuda.memory_factory = StandinMemory
    return standin


def names_for_rank() -> Any:
    if "names" not in JOB:
        return None
    return JOB["names"][str(RANK)] or (lambda name: False)


def stream(streamer: SafetensorsStreamer, **more: Any) -> None:
    arguments = {"is_distributed": True, "tensor_names": names_for_rank(), **more}
    if "device" in JOB:
        arguments["device"] = JOB["device"]
    streamer.stream_files(JOB["files"], **arguments)


def hidden(address: object) -> Any:
    raise PermissionError("/proc is somebody else's")


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
    if JOB["cold"] == RANK:
        membership.cached_fraction = lambda paths: 0.9
    use_standin(JOB["driver"])
    from standin import StandinMemory

    class NcclMemory(StandinMemory):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.backend = "nccl"

    from runai_model_streamer import cuda

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
        pump.leave_all()
        dist.barrier()
        connections.append(len(os.listdir("/proc/self/fd")))
        dist.barrier()
    return {"connections": connections}


def reborn() -> dict[str, Any]:
    """A stream, and another one in a default group that was made anew."""
    first = load()["tensors"]
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group("gloo")
    return {"first": first, **load()}


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
    if RANK > 0:
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


def group() -> dict[str, Any]:
    """The ranks of JOB["ranks"] only, in a group of theirs."""
    made = dist.new_group(JOB["ranks"], backend="gloo")
    if RANK not in JOB["ranks"]:
        return {}
    with SafetensorsStreamer() as streamer:
        stream(streamer, process_group=made)
        tensors = [(name, digest(tensor)) for name, tensor in streamer.get_tensors()]
        return {"tensors": tensors, "notes": streamer.stats().notes}


def selection_fails() -> dict[str, Any]:
    """Rank 1's own function raises between the headers and the data."""

    def wanted(name: str) -> bool:
        if RANK == 1:
            raise KeyError("no such layer")
        return True

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(JOB["files"], is_distributed=True, tensor_names=wanted)
        return {"tensors": [name for name, _ in streamer.get_tensors()]}


def no_thread() -> dict[str, Any]:
    """Rank 1 gets no thread for its part."""
    if RANK == 1:

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threading.Thread.start = start
    return load()


def unknown_name() -> dict[str, Any]:
    with SafetensorsStreamer() as streamer:
        names = ["no.such.tensor"] if RANK == 1 else None
        streamer.stream_files(JOB["files"], is_distributed=True, tensor_names=names)
        return {"tensors": [name for name, _ in streamer.get_tensors()]}


def own_copy() -> dict[str, Any]:
    """Each rank has files of its own under the same relative names."""
    os.chdir(JOB["folders"][RANK])
    return load()


def other_version() -> dict[str, Any]:
    if RANK == 1:
        membership.native.version = lambda: "0.0.0"
    return load()


def other_files() -> dict[str, Any]:
    if RANK == 1:
        JOB["files"].reverse()
    return load()


def truncated() -> dict[str, Any]:
    """A file loses its end while it is streamed."""
    count = 0
    with SafetensorsStreamer() as streamer:
        stream(streamer)
        for _ in streamer.get_tensors():
            count += 1
            if count == 1 and RANK == 0:
                os.truncate(JOB["files"][-1], JOB["left"])
                Path(JOB["flag"]).touch()
            elif count == 1:
                wait_for(JOB["flag"])
    return {"count": count}


def dropped() -> dict[str, Any]:
    """Rank 1 lets go of its streamer after a tensor, without closing it; the others go on."""
    streamer = SafetensorsStreamer()
    stream(streamer)
    iterator = streamer.get_tensors()
    next(iterator)
    if RANK == 1:
        del iterator, streamer
        wait_for(JOB["flag"])
        return {"count": 1}
    try:
        count = 1 + sum(1 for _ in iterator)
    finally:
        Path(JOB["flag"]).touch()
    return {"count": count}


def suspended() -> dict[str, Any]:
    """Rank JOB["who"] is stopped by a signal after a tensor, until the others have ended."""
    with SafetensorsStreamer() as streamer:
        stream(streamer)
        iterator = streamer.get_tensors()
        next(iterator)
        if JOB["who"] == RANK:
            suspend_until([f"{JOB['flag']}{rank}" for rank in range(3) if rank != RANK])
        try:
            return {"count": 1 + sum(1 for _ in iterator)}
        finally:
            Path(f"{JOB['flag']}{RANK}").touch()


def suspend_until(flags: list[str]) -> None:
    mine = os.getpid()
    if os.fork() == 0:
        for flag in flags:
            wait_for(flag)
        os.kill(mine, signal.SIGCONT)
        os._exit(0)
    os.kill(mine, signal.SIGSTOP)


def other_device() -> dict[str, Any]:
    if RANK == 1:  # the stand-in's memory is the host's
        own = membership.hello
        membership.hello = lambda *arguments: {**own(*arguments), "device": "cuda"}
    return load()


def abandon() -> dict[str, Any]:
    """Rank 1 leaves after a tensor, by JOB["how"]; the others go on."""
    streamer = SafetensorsStreamer()
    with streamer:
        stream(streamer)
        iterator = streamer.get_tensors()
        next(iterator)
        if RANK == 1:
            if JOB["how"] == "close":
                iterator.close()
                streamer.__exit__(None, None, None)
            elif JOB["how"] == "kill":
                os.kill(os.getpid(), 9)
            elif JOB["how"] == "exit":
                os._exit(0)
            elif JOB["how"] == "raise":
                raise RuntimeError("the model's loader failed")
            wait_for(JOB["flag"])  # the rest: it keeps the generator, and does nothing
            return {"count": 1}
        try:
            count = 1 + sum(1 for _ in iterator)
        finally:
            Path(JOB["flag"]).touch()
    return {"count": count}


def collective_works() -> bool:
    """The default group is as it was."""
    total = torch.ones(1, dtype=torch.int64)
    dist.all_reduce(total)
    return int(total) == dist.get_world_size()


def main(job: dict[str, Any]) -> None:
    """Does `job` as the rank that the environment says."""
    from datetime import timedelta

    global RANK
    JOB.update(job)
    RANK = int(os.environ["RANK"])
    if JOB.get("way") == "gloo":
        membership.on_one_node = lambda hellos: False
    elif JOB.get("way") == "hidden from rank 1" and RANK == 1:
        staging.attach = hidden
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    try:
        result = globals()[JOB["program"]]()
    except Exception as error:
        result = describe(error)
    if JOB.get("afterwards", True):
        result["works"] = collective_works()
    path = Path(JOB["results"]) / f"{RANK}.json"
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").rename(path)
    if RANK == 0:  # whose process has the key-value store
        for rank in JOB.get("store_until", []):
            wait_for(str(Path(JOB["results"]) / f"{rank}.json"))
    if JOB.get("afterwards", True):
        dist.barrier()
        dist.destroy_process_group()


def forked(job: dict[str, Any], env: dict[str, str], log: str) -> None:
    """As main(), after fork()."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    main(job)


def execute(command: list[str], env: dict[str, str], log: str) -> None:
    """As a process of its own, after fork()."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execvpe(command[0], command, env)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
