"""Random use of a streamer's iterators, compared with lists: for every source and placement."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import save_file

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerClosedError,
)
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata

# Small ones that share memory, large ones that have their own, empty ones; and a file of none.
SIZES = ([5, 5, 5, 0, 70_000, 9, 3], [90_000, 1], [], [2] * 12)
Pairs = list[tuple[str, torch.Tensor]]


def write_files(directory: Path) -> dict[str, Pairs]:
    """Files by name, and their tensors in file order."""
    files: dict[str, Pairs] = {}
    for number, sizes in enumerate(SIZES):
        tensors = {
            f"{number}.{index:02}": torch.arange(size, dtype=torch.float32) + 100 * number + index
            for index, size in enumerate(sizes)
        }
        path = directory / f"{number}.safetensors"
        save_file(tensors, path)
        order = SafetensorsMetadata.from_files(FileStreamer(), [path])[0].tensors_metadata
        files[path.name] = [(tensor.name, tensors[tensor.name]) for tensor in order]
    return files


@dataclasses.dataclass(eq=False)
class Taker:
    """An iterator, and the load that it belongs to."""

    items: Iterator
    load: int
    ended: bool = False


class Iterating(RuleBasedStateMachine):
    """`remaining` is what the load in progress has not yielded yet; None when there is none."""

    base: str
    files: dict[str, Pairs]
    device = "cpu"
    destination: Callable[[torch.Tensor], torch.Tensor] = staticmethod(torch.zeros_like)
    """Memory on the device for such a tensor."""
    takers = Bundle("takers")

    def __init__(self) -> None:
        super().__init__()
        self.streamer = SafetensorsStreamer()
        self.load = 0
        self.remaining: Pairs | None = None
        self.empty = True
        self.complete = False
        self.known: Pairs = []

    def teardown(self) -> None:
        self.streamer.close()  # destinations may be unfilled

    def paths(self, names: Sequence[str]) -> list[str]:
        return [f"{self.base}/{name}" for name in names]

    def ended(self) -> None:
        self.load += 1
        self.remaining = None

    names = st.lists(st.sampled_from([f"{n}.safetensors" for n in range(len(SIZES))]), max_size=4)

    @rule(names=names, some=st.booleans(), into=st.booleans(), progress=st.booleans())
    def stream(self, names: list[str], some: bool, into: bool, progress: bool) -> None:
        wanted = [pair for name in names for pair in self.files[name]]
        options: dict = {}
        if some:
            options["tensor_names"] = lambda name: int(name[-1]) % 2 == 0
            wanted = [pair for pair in wanted if int(pair[0][-1]) % 2 == 0]
        if progress:
            options["progress"] = lambda done, total: None
        if into and wanted and len(set(names)) == len(names):
            options["into"] = {
                name: self.destination(tensor) for name, tensor in wanted[:: len(wanted) // 3 + 1]
            }
        if some and len(set(names)) < len(names):
            names = list(dict.fromkeys(names))
            wanted = [
                pair for name in names for pair in self.files[name] if int(pair[0][-1]) % 2 == 0
            ]
            options.pop("into", None)
        self.streamer.stream_files(self.paths(names), device=self.device, **options)
        self.known = [pair for name in names for pair in self.files[name]]
        self.load += 1
        self.remaining, self.empty, self.complete = wanted, not wanted, False

    @rule(target=takers)
    def iterate(self) -> Taker:
        if self.remaining is None:
            with pytest.raises(RunaiStreamerInvalidInputException, match="nothing is being"):
                self.streamer.get_tensors()
            return Taker(iter(()), -1, ended=True)
        if self.complete and not self.empty:
            with pytest.raises(RunaiStreamerInvalidInputException, match="complete"):
                self.streamer.get_tensors()
            return Taker(iter(()), -1, ended=True)
        return Taker(self.streamer.get_tensors(), self.load)

    @rule(taker=takers, count=st.integers(1, 9))
    def take(self, taker: Taker, count: int) -> None:
        for _ in range(count):
            self.step(taker)

    def step(self, taker: Taker) -> None:
        if taker.ended:
            assert next(taker.items, None) is None
        elif taker.load != self.load or self.remaining is None:
            taker.ended = True
            with pytest.raises(StreamerClosedError):
                next(taker.items)
        elif not self.remaining:
            taker.ended = self.complete = True
            assert next(taker.items, None) is None
        else:
            name, tensor = next(taker.items)
            wanted = self.remaining.pop(0)
            assert name == wanted[0]
            assert torch.equal(tensor, wanted[1])

    @rule(taker=takers)
    def close_iterator(self, taker: Taker) -> None:
        taker.items = taker.items if isinstance(taker.items, Iterator) else iter(taker.items)
        getattr(taker.items, "close", lambda: None)()
        taker.ended = True

    @rule(taker=consumes(takers))
    def drop(self, taker: Taker) -> None:
        del taker.items

    @rule(taker=takers)
    def throw(self, taker: Taker) -> None:
        if hasattr(taker.items, "throw"):
            with pytest.raises(ValueError, match="of the consumer"):
                taker.items.throw(ValueError("of the consumer"))
        taker.ended = True

    @precondition(lambda self: self.remaining and not self.complete)
    @rule()
    def peek(self) -> None:
        assert self.remaining is not None
        name, tensor = next(self.streamer.get_tensors())
        wanted = self.remaining.pop(0)
        assert name == wanted[0] and torch.equal(tensor, wanted[1])

    @precondition(lambda self: self.remaining is not None and (self.empty or not self.complete))
    @rule(count=st.integers(1, 20))
    def loop_with_break(self, count: int) -> None:
        assert self.remaining is not None
        for name, tensor in self.streamer.get_tensors():
            wanted = self.remaining.pop(0)
            assert name == wanted[0] and torch.equal(tensor, wanted[1])
            count -= 1
            if count == 0:
                break
        else:
            self.complete = True
            assert not self.remaining

    @precondition(lambda self: self.remaining is not None and (self.empty or not self.complete))
    @rule(count=st.integers(0, 20), wait=st.booleans())
    def await_some(self, count: int, wait: bool) -> None:
        """Of an asynchronous iterator, which may be cancelled while it waits for the next one."""

        async def take() -> list[tuple[str, torch.Tensor]]:
            tensors, found = self.streamer.get_tensors_async(), []
            for _ in range(count):
                try:
                    found.append(await anext(tensors))
                except StopAsyncIteration:
                    self.complete = True
                    return found
            if wait:
                asking = asyncio.ensure_future(anext(tensors))
                await asyncio.sleep(0)
                asking.cancel()
                await asyncio.wait([asking])
                if not asking.cancelled():  # it did not have to wait
                    if isinstance(asking.exception(), StopAsyncIteration):
                        self.complete = True
                    else:
                        found.append(asking.result())
            await tensors.aclose()
            return found

        assert self.remaining is not None
        for name, tensor in asyncio.run(take()):
            wanted = self.remaining.pop(0)
            assert name == wanted[0] and torch.equal(tensor, wanted[1])
        assert not (self.complete and self.remaining)

    @rule(names=names)
    def open_files(self, names: list[str]) -> None:
        self.streamer.open_files(self.paths(names))
        self.known = [pair for name in names for pair in self.files[name]]
        self.ended()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def get_slice(self, data: st.DataObject) -> None:
        name, tensor = data.draw(st.sampled_from(self.known))
        assert torch.equal(self.streamer.get_slice(name)[2:7], tensor[2:7])

    @rule()
    def close(self) -> None:
        self.streamer.file_streamer.close()
        self.ended()


class Chunks(RuleBasedStateMachine):
    """The same of ranges, whose requests may have equal ids, and files opened twice."""

    base: str
    contents: dict[str, bytes]
    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.streamer = FileStreamer()
        self.remaining: list[tuple[int, int, bytes]] = []
        self.old: list[Iterator] = []
        self.current: list[Iterator] = []

    def teardown(self) -> None:
        self.streamer.close()

    files = st.sampled_from([f"{n}.safetensors" for n in range(len(SIZES))])
    ranges = st.lists(
        st.tuples(
            files,
            st.integers(0, 2),
            st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=4),
        ),
        max_size=4,
    )

    @rule(opened=st.lists(files, max_size=4), ranges=ranges, limit=st.sampled_from([None, -1]))
    def stream(self, opened: list[str], ranges: list, limit: int | None) -> None:
        if opened:
            self.streamer.open_files([f"{self.base}/{name}" for name in opened])
        requests = []
        self.remaining = []
        for name, number, parts in ranges:
            content = self.contents[name]
            begins = [(min(at, len(content)), size) for at, size in parts]
            cut = [(at, min(size, len(content) - at)) for at, size in begins]
            requests.append(
                FileChunks(
                    number, f"{self.base}/{name}", [at for at, _ in cut], [size for _, size in cut]
                )
            )
            self.remaining += [
                (number, index, content[at : at + size]) for index, (at, size) in enumerate(cut)
            ]
        self.streamer.stream_files(requests, device=self.device, memory_limit=limit)
        self.old += self.current
        self.current = []
        self.any = bool(self.remaining)
        self.complete = False

    @precondition(lambda self: hasattr(self, "any"))
    @rule(count=st.integers(1, 6), keep=st.booleans())
    def take(self, count: int, keep: bool) -> None:
        if self.complete and self.any:
            with pytest.raises(RunaiStreamerInvalidInputException, match="complete"):
                self.streamer.get_chunks()
            return
        chunks = self.streamer.get_chunks()
        for _ in range(count):
            found = next(chunks, None)
            if found is None:
                assert not self.remaining
                self.complete = True
                return
            number, index, chunk = found
            assert (number, index, bytes(chunk.flatten().tolist())) == self.remaining.pop(0)
            assert chunk.shape[0] == 1 and chunk.dtype == torch.uint8
        if keep:
            self.current.append(chunks)

    @precondition(lambda self: self.old)
    @rule()
    def step_of_an_old_one(self) -> None:
        with pytest.raises(StreamerClosedError):
            next(self.old.pop())


def explore(
    machine: type[RuleBasedStateMachine], examples: int, steps: int = 30, **facts: object
) -> None:
    """Runs `machine` with its attributes set to `facts`."""
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(type("Machine", (machine,), facts), settings=settings)
