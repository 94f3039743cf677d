"""What was fetched belongs to the load: iterators come and go, and lose and repeat nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
from runai_model_streamer._device import registry
from runai_model_streamer._device.moved import MovedSink
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerClosedError,
    StreamerError,
)
from tests.support import iterating
from tests.support.models import MIB, same, save_floats
from tests.support.servers.canned import Answer, Canned, Seen, ranged

SIZES = [100 + index for index in range(40)] + [300_000] * 4 + [7] * 20
Model = tuple[SafetensorsStreamer, dict[str, torch.Tensor]]


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Model]:
    """A streamer with a load in progress, and the tensors of the load."""
    tensors = save_floats(tmp_path / "a.safetensors", SIZES)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(tmp_path / "a.safetensors")
        yield streamer, tensors


def check(found: list[tuple[str, torch.Tensor]], tensors: dict[str, torch.Tensor]) -> None:
    assert sorted(name for name, _ in found) == sorted(tensors)
    assert all(same(tensor, tensors[name]) for name, tensor in found)


class TestContinuing:
    @pytest.fixture(autouse=True)
    def _every_strategy(self, strategy: str) -> None:
        pass

    def test_a_loop_continues_after_a_look_at_the_first(self, loading: Model) -> None:
        streamer, tensors = loading
        first = next(streamer.get_tensors())
        check([first, *streamer.get_tensors()], tensors)

    def test_a_second_loop_continues_after_a_break(self, loading: Model) -> None:
        streamer, tensors = loading
        found = []
        for count in (4, 1, 30, 7):
            for pair in streamer.get_tensors():
                found.append(pair)
                count -= 1
                if count == 0:
                    break
        check([*found, *streamer.get_tensors()], tensors)

    def test_two_loops_in_turn_yield_each_tensor_once(self, loading: Model) -> None:
        streamer, tensors = loading
        one, other = streamer.get_tensors(), streamer.get_tensors()
        found = []
        for pair in one:
            found.append(pair)
            found += [pair for pair in [next(other, None)] if pair is not None]
        check(found, tensors)
        assert list(other) == []

    def test_a_generator_that_is_closed_or_thrown_into(self, loading: Model) -> None:
        streamer, tensors = loading
        one, other = streamer.get_tensors(), streamer.get_tensors()
        found = [next(one), next(other), next(one)]
        one.close()
        with pytest.raises(KeyError, match="of the model"):
            other.throw(KeyError("of the model"))
        assert list(one) == list(other) == []
        check([*found, *streamer.get_tensors()], tensors)

    def test_iterators_of_chunks_share_one_sequence(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 40
        (tmp_path / "blob").write_bytes(content)
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(3, tmp_path / "blob", 0, [1024] * 10)])
            found = [next(streamer.get_chunks()), next(streamer.get_chunks())]
            found += streamer.get_chunks()
            assert b"".join(chunk.numpy().tobytes() for _, _, chunk in found) == content
            assert [index for _, index, _ in found] == list(range(10))
            with pytest.raises(RunaiStreamerInvalidInputException, match="complete"):
                streamer.get_chunks()


class TestTheEnd:
    def test_a_complete_load_says_so(self, loading: Model) -> None:
        streamer, tensors = loading
        early = streamer.get_tensors()
        check(list(streamer.get_tensors()), tensors)
        for _ in range(2):
            with pytest.raises(RunaiStreamerInvalidInputException, match="the load is complete"):
                streamer.get_tensors()
        assert list(early) == []

    def test_a_break_at_the_last_tensor_leaves_an_empty_rest(self, loading: Model) -> None:
        streamer, tensors = loading
        tensors_in_order = streamer.get_tensors()
        check([next(tensors_in_order) for _ in SIZES], tensors)
        assert list(streamer.get_tensors()) == []
        with pytest.raises(RunaiStreamerInvalidInputException, match="complete"):
            streamer.get_tensors()

    def test_a_load_of_nothing_is_never_at_its_end(self, tmp_path: Path) -> None:
        save_file({}, tmp_path / "none.safetensors")
        with SafetensorsStreamer() as streamer:
            for paths in ([], [tmp_path / "none.safetensors"]):
                streamer.stream_files(paths)
                assert [list(streamer.get_tensors()) for _ in range(3)] == [[], [], []]
        with FileStreamer() as files:
            files.stream_files([])
            assert [list(files.get_chunks()) for _ in range(3)] == [[], [], []]

    def test_what_was_drained_is_gone(self, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(bytes(4096))
        with FileStreamer() as streamer:
            streamer.drain_live_submissions()
            streamer.stream_files([FileChunks(0, tmp_path / "blob", 0, [1024] * 4)])
            streamer.drain_live_submissions()
            streamer.drain_live_submissions()
            assert list(streamer.get_chunks()) == []

    @pytest.mark.parametrize("how", ["stream_files", "open_files", "open nothing", "close"])
    @pytest.mark.parametrize("begun", [True, False])
    def test_an_iterator_of_an_earlier_load_is_closed(
        self, loading: Model, tmp_path: Path, strategy: str, how: str, begun: bool
    ) -> None:
        streamer, _ = loading
        # Of the same number of tensors of the same size, so that a mixture would work.
        others = save_floats(tmp_path / "b.safetensors", SIZES, seed=1)
        old = streamer.get_tensors()
        if begun:
            next(old)
        if how == "stream_files":
            streamer.stream_file(tmp_path / "b.safetensors")
        elif how == "close":
            streamer.file_streamer.close()
        else:
            streamer.open_files([tmp_path / "b.safetensors"] if how == "open_files" else [])
        with pytest.raises(StreamerClosedError) as caught:
            next(old)
        assert caught.value.code == "cancelled"
        assert list(old) == []
        if how == "stream_files":
            check(list(streamer.get_tensors()), others)
        else:
            with pytest.raises(RunaiStreamerInvalidInputException, match="nothing is being"):
                streamer.get_tensors()

    def test_a_load_that_failed_fails_again(self, tmp_path: Path, strategy: str) -> None:
        path = tmp_path / "a.safetensors"
        save_floats(path, [300_000] * 20)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, into={"t0000": torch.empty(300_000)})
            early = streamer.get_tensors()
            with pytest.raises(ZeroDivisionError):
                self.fail_after_the_first(streamer)
            for tensors in (early, None):
                with pytest.raises(StreamerClosedError, match="ended early, by ZeroDivisionError"):
                    list(tensors or streamer.get_tensors())

    @staticmethod
    def fail_after_the_first(streamer: SafetensorsStreamer) -> None:
        def fail(done: int, total: int) -> None:
            raise ZeroDivisionError

        assert streamer._begun is not None
        streamer._begun[1].progress = fail
        list(streamer.get_tensors())

    def test_an_error_of_the_engine_comes_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(2 * MIB))
        path = tmp_path / "a.safetensors"
        save_floats(path, [300_000] * 20)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            next(streamer.get_tensors())
            with open(path, "r+b") as file:
                file.truncate(2 * MIB)
            errors = []
            for _ in range(3):
                with pytest.raises(StreamerError) as caught:
                    list(streamer.get_tensors())
                errors.append(caught.value)
        assert len({(type(error), str(error), error.path) for error in errors}) == 1
        assert errors[0].path == str(path) and errors[0].code in ("short_read", "changed")
        assert len({id(error) for error in errors}) == 3


def test_a_second_thread_in_a_load_is_refused(tmp_path: Path) -> None:
    save_floats(tmp_path / "a.safetensors", [300_000] * 3)
    inside, go_on = threading.Event(), threading.Event()

    def progress(done: int, total: int) -> None:
        inside.set()
        assert go_on.wait(60)

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(tmp_path / "a.safetensors", progress=progress)
        found: list[int] = []
        thread = threading.Thread(
            target=lambda: found.append(sum(1 for _ in streamer.get_tensors()))
        )
        thread.start()
        assert inside.wait(60)
        with pytest.raises(RunaiStreamerInvalidInputException, match="another thread"):
            next(streamer.get_tensors())
        go_on.set()
        thread.join(60)
        assert found == [3]


class TestMemory:
    """Nothing but the consumer holds what was yielded."""

    @pytest.fixture(params=["plain", "into", "progress", "moved", "moved into"])
    def options(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, object]:
        if "moved" in request.param:
            monkeypatch.setattr(
                registry,
                "sink_for",
                lambda _: MovedSink(torch.device("cpu"), "elsewhere"),
            )
        if "into" in request.param:
            return {"into": {"t0000": torch.empty(300_000)}}
        if request.param == "progress":
            return {"progress": lambda done, total: None}
        return {}

    def test_a_large_tensor_is_freed_when_it_is_dropped(
        self, strategy: str, tmp_path: Path, options: dict[str, object]
    ) -> None:
        save_floats(tmp_path / "a.safetensors", [300_000] * 6)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(tmp_path / "a.safetensors", **options)
            tensors = streamer.get_tensors()
            next(tensors)
            for _ in range(5):
                _, tensor = next(tensors)
                dropped = weakref.ref(tensor)
                del tensor
                assert dropped() is None

    def test_a_large_chunk_is_freed_when_it_is_dropped(self, strategy: str, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(bytes(4 * MIB))
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(0, tmp_path / "blob", 0, [MIB] * 4)])
            for _ in range(4):
                _, _, chunk = next(streamer.get_chunks())
                dropped = weakref.ref(chunk)
                del chunk
                assert dropped() is None

    def test_a_streamer_that_nobody_closes(self, strategy: str, tmp_path: Path) -> None:
        """No cycle: it ends when the last reference to it does, or to its iterators."""
        save_floats(tmp_path / "a.safetensors", [300_000] * 6)
        gc.disable()
        try:
            streamer = SafetensorsStreamer()
            streamer.stream_file(tmp_path / "a.safetensors")
            tensors = streamer.get_tensors()
            next(tensors)
            session = weakref.ref(streamer.file_streamer._reader.session)
            del streamer
            next(tensors)
            assert session() is not None
            del tensors
            assert session() is None
        finally:
            gc.enable()


class TestNumbers:
    """Of files and of requests."""

    def test_requests_may_have_the_same_id(self, strategy: str, tmp_path: Path) -> None:
        (tmp_path / "blob").write_bytes(bytes(range(100)))
        with FileStreamer() as streamer:
            streamer.stream_files(
                [
                    FileChunks(7, tmp_path / "blob", 0, [10, 20]),
                    FileChunks(7, tmp_path / "blob", 50, [3, 4]),
                ]
            )
            found = [
                (id, index, chunk.flatten().tolist()) for id, index, chunk in streamer.get_chunks()
            ]
        parts = [range(10), range(10, 30), range(50, 53), range(53, 57)]
        assert found == [(7, i % 2, list(part)) for i, part in enumerate(parts)]

    def test_a_path_that_is_opened_twice(self, strategy: str, tmp_path: Path) -> None:
        paths = [str(tmp_path / name) for name in "abc"]
        for path in paths:
            Path(path).write_bytes(path[-1].encode() * 100)
        a, b, _ = paths
        with FileStreamer() as streamer:
            streamer.open_files([a, a, b])
            streamer.stream_files(
                [FileChunks(index, path, 0, [4]) for index, path in enumerate(paths)]
            )
            found = [bytes(chunk.flatten().tolist()) for _, _, chunk in streamer.get_chunks()]
        assert found == [b"aaaa", b"bbbb", b"cccc"]

    def test_numbers_match_after_an_open_that_failed_half_way(self, tmp_path: Path) -> None:
        paths = [str(tmp_path / name) for name in "abc"]
        for path in paths:
            Path(path).write_bytes(path[-1].encode() * 100)
        a, b, _ = paths
        with FileStreamer() as streamer:
            session, _ = streamer.open_files([a])
            with pytest.raises(FileNotFoundError):
                session.open([str(tmp_path / "missing"), b])
            streamer.stream_files(
                [FileChunks(index, path, 0, [4]) for index, path in enumerate(paths)]
            )
            found = [bytes(chunk.flatten().tolist()) for _, _, chunk in streamer.get_chunks()]
        assert found == [b"aaaa", b"bbbb", b"cccc"]


def test_random_use_yields_every_tensor_once(strategy: str, tmp_path: Path) -> None:
    files = iterating.write_files(tmp_path)
    iterating.explore(iterating.Iterating, 120, base=str(tmp_path), files=files)


def test_random_use_of_a_device_that_only_pytorch_can_copy_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        registry,
        "sink_for",
        lambda _: MovedSink(torch.device("cpu"), "elsewhere"),
    )
    files = iterating.write_files(tmp_path)
    iterating.explore(iterating.Iterating, 60, base=str(tmp_path), files=files)


def test_random_use_of_chunks(strategy: str, tmp_path: Path) -> None:
    contents = {name: (tmp_path / name).read_bytes() for name in iterating.write_files(tmp_path)}
    iterating.explore(iterating.Chunks, 120, base=str(tmp_path), contents=contents)


def test_random_use_of_objects(tmp_path: Path) -> None:
    files = iterating.write_files(tmp_path)

    def serve(seen: Seen) -> Answer:
        return ranged(seen, (tmp_path / seen.path.strip("/")).read_bytes())

    with Canned(serve) as server:
        iterating.explore(
            iterating.Iterating, 12, 30, base=f"http://{server.host}:{server.port}", files=files
        )


class TestAwaiting:
    def test_the_event_loop_goes_on_while_a_load_waits(self, tmp_path: Path) -> None:
        """The server answers only when another task of the loop says so."""
        save_floats(tmp_path / "a.safetensors", [300_000] * 4)
        content = (tmp_path / "a.safetensors").read_bytes()
        let_go = threading.Event()

        def serve(seen: Seen) -> Answer:
            start = int(seen.headers["range"].removeprefix("bytes=").partition("-")[0])
            assert start < 256 << 10 or let_go.wait(60)
            return ranged(seen, content)

        async def load(url: str) -> list[str]:
            with SafetensorsStreamer(memory_limit=2 * MIB) as streamer:
                await asyncio.to_thread(streamer.stream_file, url)
                asyncio.get_running_loop().call_later(0.05, let_go.set)
                return [name async for name, _ in streamer.get_tensors_async()]

        with Canned(serve) as server:
            found = asyncio.run(load(f"http://{server.host}:{server.port}/a.safetensors"))
        assert found == [f"t{index:04}" for index in range(4)]

    def test_tasks_that_share_a_load(self, loading: Model) -> None:
        streamer, tensors = loading

        async def take() -> list[tuple[str, torch.Tensor]]:
            found = []
            async for pair in streamer.get_tensors_async():
                found.append(pair)
                await asyncio.sleep(0)
            return found

        async def load() -> list[tuple[str, torch.Tensor]]:
            return [
                pair for found in await asyncio.gather(take(), take(), take()) for pair in found
            ]

        check(asyncio.run(load()), tensors)

    def test_nothing_but_the_consumer_holds_a_tensor(self, tmp_path: Path) -> None:
        save_floats(tmp_path / "a.safetensors", [300_000] * 4)

        async def load() -> None:
            with SafetensorsStreamer() as streamer:
                streamer.stream_file(tmp_path / "a.safetensors")
                dropped = None
                async for _, tensor in streamer.get_tensors_async():
                    assert dropped is None or dropped() is None
                    dropped = weakref.ref(tensor)
                    del tensor

        asyncio.run(load())

    def test_errors_and_ends_are_those_of_get_tensors(self, loading: Model) -> None:
        streamer, tensors = loading

        async def load() -> list[tuple[str, torch.Tensor]]:
            return [pair async for pair in streamer.get_tensors_async()]

        check(asyncio.run(load()), tensors)
        with pytest.raises(RunaiStreamerInvalidInputException, match="complete"):
            asyncio.run(load())
        streamer.close()
        with pytest.raises(RunaiStreamerInvalidInputException, match="nothing is being"):
            asyncio.run(load())

    def test_a_load_that_fails_while_it_is_awaited(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        save_floats(path, [300_000] * 40)

        async def load() -> None:
            with SafetensorsStreamer(memory_limit=2 * MIB, fs_strategy="buffered") as streamer:
                streamer.stream_file(path)
                async for _ in streamer.get_tensors_async():
                    os.truncate(path, 10 * MIB)

        with pytest.raises(StreamerError, match=r"truncated|modified"):
            asyncio.run(load())
