"""Programs of ranks of which one fails. Each function is a program."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._distributed import (
    membership,
)
from runai_model_streamer._distributed.store_client import StoreClient
from tests.python.distributed.job import JOB, my_rank, stream, wait_for
from tests.python.distributed.programs import load


def selection_fails() -> dict[str, Any]:
    """Rank 1's own function raises between the headers and the data."""

    def wanted(name: str) -> bool:
        if my_rank() == 1:
            raise KeyError("no such layer")
        return True

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(JOB["files"], is_distributed=True, tensor_names=wanted)
        return {"tensors": [name for name, _ in streamer.get_tensors()]}


def no_thread() -> dict[str, Any]:
    """Rank 1 gets no thread for its part."""
    if my_rank() == 1:

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threading.Thread.start = start
    return load()


def unknown_name() -> dict[str, Any]:
    with SafetensorsStreamer() as streamer:
        names = ["no.such.tensor"] if my_rank() == 1 else None
        streamer.stream_files(JOB["files"], is_distributed=True, tensor_names=names)
        return {"tensors": [name for name, _ in streamer.get_tensors()]}


def own_copy() -> dict[str, Any]:
    """Each rank has files of its own under the same relative names."""
    os.chdir(JOB["directories"][my_rank()])
    return load()


def other_version() -> dict[str, Any]:
    if my_rank() == 1:
        membership.native.version = lambda: "0.0.0"
    return load()


def other_files() -> dict[str, Any]:
    if my_rank() == 1:
        JOB["files"].reverse()
    return load()


def some_come() -> dict[str, Any]:
    """The ranks JOB["come"] load, the others do not."""
    if JOB.get("first"):
        load()
    dist.barrier()
    if my_rank() not in JOB["come"]:
        return {}
    wait = StoreClient.wait

    def wait_together(self: StoreClient, *arguments: Any) -> None:
        """So that a rank that is slow is not missing."""
        all_are("waiting", JOB["come"])
        try:
            wait(self, *arguments)
        finally:
            all_are("told", JOB["come"])

    StoreClient.wait = wait_together  # type: ignore[method-assign]
    return load()


def all_are(what: str, ranks: Iterable[int]) -> None:
    """Waits until all of `ranks` have called this."""
    Path(f"{JOB['flag']}-{what}-{my_rank()}").touch()
    for rank in ranks:
        wait_for(f"{JOB['flag']}-{what}-{rank}")


def truncated() -> dict[str, Any]:
    """A file loses its end while it is streamed."""
    count = 0
    with SafetensorsStreamer() as streamer:
        stream(streamer)
        for _ in streamer.get_tensors():
            count += 1
            if count == 1 and my_rank() == 0:
                os.truncate(JOB["files"][-1], JOB["left"])
                Path(JOB["flag"]).touch()
            elif count == 1:
                wait_for(JOB["flag"])
    return {"count": count}


def the_rest_of(iterator: Iterator[Any]) -> dict[str, Any]:
    """Takes what is left after the first tensor, and tells rank 1 that this has ended."""
    try:
        return {"count": 1 + sum(1 for _ in iterator)}
    finally:
        Path(JOB["flag"]).touch()


def dropped() -> dict[str, Any]:
    """Rank 1 lets go of its streamer after a tensor, without closing it; the others go on."""
    streamer = SafetensorsStreamer()
    stream(streamer)
    iterator = streamer.get_tensors()
    next(iterator)
    if my_rank() == 1:
        del iterator, streamer
        wait_for(JOB["flag"])
        return {"count": 1}
    return the_rest_of(iterator)


def suspended() -> dict[str, Any]:
    """Rank JOB["who"] is stopped by a signal after JOB["tensors"], until the others have ended."""
    all_are("ready", range(3))  # the default group of each rank is complete
    with SafetensorsStreamer() as streamer:
        try:
            if JOB["tensors"] == 0:
                suspend_until_others_ended()
            stream(streamer)
            for count, _ in enumerate(streamer.get_tensors(), start=1):
                if count == JOB["tensors"]:
                    suspend_until_others_ended()
            return {"count": count}
        finally:
            Path(f"{JOB['flag']}{my_rank()}").touch()


def suspend_until_others_ended() -> None:
    """On rank JOB["who"]."""
    mine = os.getpid()
    if JOB["who"] != my_rank():
        return
    flags = [f"{JOB['flag']}{rank}" for rank in range(3) if rank != my_rank()]
    if os.fork() == 0:
        for flag in flags:
            wait_for(flag)
        os.kill(mine, signal.SIGCONT)
        os._exit(0)
    os.kill(mine, signal.SIGSTOP)


def other_device() -> dict[str, Any]:
    if my_rank() == 1:  # the stand-in's memory is the host's
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
        if my_rank() == 1:
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
        return the_rest_of(iterator)


def fails_then_loads() -> dict[str, Any]:
    """Rank 1 raises JOB["failure"] in JOB["where"] once; then every rank loads."""
    module, owner, name = JOB["where"]
    place = importlib.import_module(f"runai_model_streamer.{module}")
    place = getattr(place, owner) if owner else place
    work = getattr(place, name)
    failure = {"RuntimeError": RuntimeError, "KeyboardInterrupt": KeyboardInterrupt}[JOB["failure"]]

    def fail(*arguments: Any, **more: Any) -> Any:
        setattr(place, name, work)
        raise failure("the first attempt")

    if my_rank() == 1:
        setattr(place, name, fail)
    first: dict[str, Any] = {}
    try:
        load()
    except (Exception, KeyboardInterrupt) as error:
        first = {"error": type(error).__name__, "text": str(error)}
    return {"first": first, **load()}


def interrupted() -> dict[str, Any]:
    """Rank 1 gets SIGINT while it waits for rank 2, which comes when the others have failed. Then
    every rank loads."""
    first: dict[str, Any] = {}
    if my_rank() == 2:
        for rank in (0, 1):
            wait_for(f"{JOB['flag']}{rank}")
    elif my_rank() == 1:
        mine, wait = threading.get_ident(), StoreClient.wait

        def interrupted_wait(self: StoreClient, *arguments: Any) -> None:
            StoreClient.wait = wait  # type: ignore[method-assign]
            signal.pthread_kill(mine, signal.SIGINT)
            wait(self, *arguments)

        StoreClient.wait = interrupted_wait  # type: ignore[method-assign]
    try:
        load()
    except (Exception, KeyboardInterrupt) as error:
        first = {"kind": type(error).__name__, "text": str(error)}
    Path(f"{JOB['flag']}{my_rank()}").touch()
    return {"first": first, **load()}
