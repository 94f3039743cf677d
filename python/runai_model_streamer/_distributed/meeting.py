"""The meeting of calls of stream_files() on several ranks.

Each rank has one key of the store for each process group, `call/RANK`, with what it waits for: the
files and the ranks of every call that has no stream yet. The first of the ranks that share compares
these values. When all of the ranks wait for the same files, it names a stream, and tells each rank
under `go/CALL`. So calls are paired by what ranks wait for, never by how many calls came before: a
rank that failed, that called once more, or that joined later is paired like any other, and so are
the calls of several threads.

A call that ends without a stream leaves a word in that value: that it reads alone, or how it
failed. Ranks that wait for it stop waiting. The number of a call, which is equal on all ranks as
long as all of them make the same calls, tells which calls a word is about.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch.distributed as dist

from runai_model_streamer._distributed.peer_errors import (
    PeerError,
    decode_error,
    encode_error,
    located,
)
from runai_model_streamer._distributed.processes import (
    host_name,
    node_identity,
    process_identity,
)
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.store_client import FAREWELL, Limit, StoreClient
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
    shown_path,
)
from runai_model_streamer._logging import logger

# A rank that waits logs a warning after this time.
_WARN = 10.0  # seconds
# A difference between ranks must last this long before it is an error, and so must a word that can
# be of an earlier call: the call that agrees can come from another thread or as a second attempt.
_LAST = 2.0  # seconds
# Longest wait for the list of files of a rank that has found the same difference.
_LISTS = 3.0  # seconds
# Words that a rank keeps: a rank that is late can still hear them.
_WORDS = 4
# The store refuses larger values.
_MAX_VALUE = 4 << 20


@dataclasses.dataclass
class _Scope:
    """The state of one group of ranks in this process. Threads hold `lock` to change it."""

    store: Callable[[], Any]
    process: int
    number: int = 0
    """Of the last call."""
    calls: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Those without a stream, by identifier."""
    words: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of the last calls that ended without a stream."""
    taken: dict[int, set[str]] = dataclasses.field(default_factory=dict)
    """By rank: its calls that have got a stream from this rank, and that it may still tell."""
    everywhere: list[bool | None] = dataclasses.field(default_factory=list)
    """The last message to the other ranks, if there was one."""
    nodes: list[list[int]] = dataclasses.field(default_factory=list)
    lists: list[str] = dataclasses.field(default_factory=list)
    """Keys of the lists of files that this rank left in the store."""
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)


_scopes: dict[str, _Scope] = {}
_scopes_lock = threading.Lock()


def _scope_of(store: Any, name: str) -> _Scope:
    with _scopes_lock:
        scope = _scopes.get(name)
        if scope is None or scope.process != os.getpid() or scope.store() is not store:
            scope = _scopes[name] = _Scope(weakref.ref(store), os.getpid())
        return scope


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


class Call:
    """One call of stream_files() on this rank, until it has a stream. A context manager.

    The ranks that wait for this one are told what is raised inside, whatever it is. `group` are the
    ranks that may take part, None for those of the default group. One thread at a time.
    """

    def __init__(
        self, store: Any, group: Sequence[int] | None, rank: int, paths: Sequence[str]
    ) -> None:
        name = "world" if group is None else _digest(sorted(group))
        self._raw_store = store
        self._prefix = f"runai_model_streamer/{name}"
        self._rank = rank
        self._host = host_name()
        self._paths = list(paths)
        self._scope = _scope_of(store, f"{name}/{rank}")
        self._id = uuid.uuid4().hex[:16]
        with self._scope.lock:
            self._scope.number += 1
            self._number = self._scope.number
        self._mine: dict[str, Any] = {}  # told to others about this call
        self._client: StoreClient | None = None
        self._channel: Channel | None = None
        self._given: dict[str, Any] = {}  # name and number of the stream
        self._timeout = 0.0  # of the stream, in seconds
        self._heard: dict[str, Any] | None = None  # the word of another rank that ended this call
        self._began = 0.0
        self._warned = False
        self._seen: dict[str, float] = {}  # the time at which each word was seen first
        self._looks = 0
        self._last_word = 0  # greatest number of a call that a word is about
        self._difference: tuple[Any, float] = (None, 0.0)  # and since when
        self._compared: list[bytes] = []

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        with self._scope.lock:  # so that no word ends two calls
            self._scope.number = max(self._scope.number, self._last_word)
        if isinstance(error, StreamerError) and not isinstance(error, PeerError):
            located(error, self._rank, self._host)
        if self._channel is not None:
            self._channel.abort(error)
            self._channel.retire()
        elif self._client is None or not self._client.stuck():
            # That others did not come is of no interest to a rank that comes when this one has
            # called again.
            failed = encode_error(error, self._rank, self._host).decode()
            word = {"failed": failed, "kept": not isinstance(error, PeerError)}
            self._briefly(partial(self._end, self._heard or word, error))

    def read_alone(self, reason: str) -> None:
        """Tells the ranks that wait for this one that it does not take part."""
        self._briefly(partial(self._end, {"alone": reason, "kept": True}, None))

    def share_everywhere(self) -> None:
        """Tells ranks that look for those of their node that this one shares with all of them."""
        self._briefly(lambda: self._tell_place(self._store(), True))

    def nodes(self, world: int, limit: Limit) -> list[list[int]]:
        """Ranks of the default group by node, each in order, nodes by their first rank.

        Waits for ranks that have never called.
        """
        if not self._scope.nodes:
            client = self._connect(range(world), limit)
            self._scope.nodes = client.patiently(lambda: self._find_nodes(client))
        return self._scope.nodes

    def meet(self, ranks: Sequence[int], limit: Limit, timeout: float) -> Channel:
        """Waits for the calls of the other `ranks` for the same files. The stream of all of them,
        of which `timeout` is the timeout.

        Raises what ended the call of another rank; the first difference between the files of two
        ranks; a PeerError that names the missing ranks, if they do not call within `limit`.
        """
        self._timeout = timeout
        client = self._connect(ranks, limit)
        self._mine = {
            "id": self._id,
            "number": self._number,
            "ranks": [len(ranks), ranks[0], _digest(list(ranks))],
            "files": self._described_files(),
        }
        client.patiently(lambda: self._find(client))
        self._channel = self._stream()
        return self._channel

    def _described_files(self) -> list[Any]:
        first = shown_path(self._paths[0]) if self._paths else ""
        return [len(self._paths), first, _digest(self._paths)]

    def _connect(self, ranks: Sequence[int], limit: Limit) -> StoreClient:
        client = StoreClient(self._raw_store, self._prefix, ranks, self._rank, limit)
        client.advice = (
            "Every rank must call stream_files() with is_distributed=True and the same files, or "
            "process_group= must be the group of the ranks that do"
        )
        self._client = client
        self._began = time.monotonic()
        return client

    def _store(self) -> Any:
        if self._client is not None:
            return self._client.store
        return dist.PrefixStore(self._prefix, self._raw_store)

    def _stream(self) -> Channel:
        assert self._client is not None
        prefix = f"{self._prefix}/{self._given['stream']}"
        return Channel(self._raw_store, prefix, self._client.ranks, self._rank, self._timeout)

    # Words of this rank.

    def _briefly(self, work: Callable[[], None]) -> None:
        """Does `work`, which calls the store, and does not wait for it for long."""

        def run() -> None:
            try:
                work()
            except Exception as error:  # the store is gone: then everybody notices that
                logger.debug("the store did not take a message: %s", error)

        thread = threading.Thread(target=run, name="streamer-dist-farewell", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # cannot start a thread
            run()
        else:
            thread.join(FAREWELL)

    def _publish(self, store: Any) -> None:
        """Under the lock, so that the last value in the store is the last one that was made."""
        value = {
            "host": self._host,
            "process": process_identity(),
            "calls": list(self._scope.calls.values()),
            "words": self._scope.words,
        }
        store.set(f"call/{self._rank}", json.dumps(value))

    def _end(self, word: dict[str, Any] | None, error: BaseException | None) -> None:
        store, scope = self._store(), self._scope
        with scope.lock:
            scope.calls.pop(self._id, None)
            if word is not None:
                about = {"id": self._id, "number": self._number, "files": self._described_files()}
                scope.words = [*scope.words, {**about, **word}][-_WORDS:]
            self._publish(store)
        self._tell_place(store, None)
        # The first rank can have given it a stream before it read this.
        if not self._given and self._mine and store.check([f"go/{self._id}"]):
            self._given = self._take_stream(store)
        if self._given and error is not None:
            self._stream().abort(error)

    def _tell_place(self, store: Any, everywhere: bool | None) -> None:
        """Tells the place of this rank, and `everywhere`: True if it shares with all ranks. None:
        unknown, or it reads alone; this does not replace what was told."""
        told = self._scope.everywhere
        if told == [everywhere] or (told and everywhere is None):
            return
        value = {
            "host": self._host,
            "node": node_identity(),
            "process": process_identity(),
            "everywhere": everywhere,
            "number": self._number,
        }
        store.set(f"place/{self._rank}", json.dumps(value))
        self._scope.everywhere = [everywhere]

    # Words of the others.

    def _find_nodes(self, client: StoreClient) -> list[list[int]]:
        store = client.store
        client.call(self._tell_place, store, False)
        keys = [f"place/{rank}" for rank in client.ranks]

        def missing() -> list[int]:
            return [rank for rank in client.ranks if not store.check([f"place/{rank}"])]

        client.wait(lambda: store.check(keys), missing, partial(self._look, client, missing))
        places = [json.loads(value) for value in client.call(store.multi_get, keys)]
        for rank, place in enumerate(places):
            if place["everywhere"] and place["number"] >= self._number:
                other = next(i for i, one in enumerate(places) if one["everywhere"] is False)
                raise self._differ(
                    (other, places[other]["host"]),
                    (rank, place["host"]),
                    "RUNAI_STREAMER_DIST_GLOBAL: 0 and 1",
                )
        groups: dict[str, list[int]] = {}
        for rank, place in enumerate(places):
            groups.setdefault(place["node"], []).append(rank)
        return list(groups.values())

    def _find(self, client: StoreClient) -> None:
        """Announces this call, and waits until it has a stream."""
        store, scope = client.store, self._scope

        def announce() -> None:
            with scope.lock:
                scope.calls[self._id] = self._mine
                scope.words = [word for word in scope.words if word["kept"]]
                lists, scope.lists = scope.lists, []
                self._publish(store)
            for key in lists:
                store.delete_key(key)

        client.call(announce)
        if client.ranks[0] == self._rank:
            done = partial(self._match, client)
        else:
            done = partial(store.check, [f"go/{self._id}"])
        missing = partial(self._missing, client)
        client.wait(done, missing, partial(self._look, client, missing))
        if not self._given:
            self._given = client.call(self._take_stream, store)

        def leave() -> None:
            with scope.lock:
                scope.calls.pop(self._id, None)
                scope.number = max(scope.number, self._given["number"])
                scope.words.clear()  # they are about earlier calls
                self._publish(store)

        client.call(leave)

    def _take_stream(self, store: Any) -> dict[str, Any]:
        key = f"go/{self._id}"
        given: dict[str, Any] = json.loads(store.get(key))
        store.delete_key(key)
        return given

    def _agrees(self, call: dict[str, Any]) -> bool:
        return self._about(call) == self._about(self._mine)

    @staticmethod
    def _about(call: dict[str, Any]) -> tuple[str, str]:
        """Equal for calls that belong together."""
        return call["files"][2], call["ranks"][2]

    def _match(self, client: StoreClient) -> bool:
        """On the first rank: gives a stream to the calls of all ranks, if all have come."""
        store, scope = client.store, self._scope
        others = [rank for rank in client.ranks if rank != self._rank]
        keys = [f"call/{rank}" for rank in others]
        if not others:
            self._given = {"stream": self._id, "number": self._number}
            return True
        if not store.check(keys):
            return False
        # No key is ever deleted, so this does not wait.
        values = store.multi_get(keys)
        if values == self._compared:
            return False
        self._compared = values
        entries = {rank: json.loads(value) for rank, value in zip(others, values, strict=True)}
        for entry in entries.values():
            self._note(entry)
        for rank, entry in entries.items():
            self._listen(client, rank, entry, surely=True)
        chosen = {}
        with scope.lock:  # threads with equal calls compete
            told = [*entries.values(), {"words": scope.words}]
            words = [word for one in told for word in self._words(client, one)]
            ended = {
                (word["number"], word["files"][2])
                for word in words
                if "failed" in word and word["kept"]
            }
            for rank, entry in entries.items():
                calls = entry["calls"]
                taken = scope.taken[rank] = scope.taken.get(rank, set()) & {c["id"] for c in calls}
                for call in calls:
                    # A call that a word is about ends when its rank hears that.
                    ends = (call["number"], call["files"][2]) in ended
                    if self._agrees(call) and call["id"] not in taken and not ends:
                        chosen[rank] = call
                        break
                else:
                    return False
            for rank, call in chosen.items():
                scope.taken[rank].add(call["id"])
        number = max(call["number"] for call in [self._mine, *chosen.values()])
        self._given = {"stream": self._id, "number": number}
        go = [f"go/{call['id']}" for call in chosen.values()]
        store.multi_set(go, [json.dumps(self._given)] * len(go))
        # A call that ended in between may have looked for its stream before it was there.
        for rank, value in zip(others, store.multi_get(keys), strict=True):
            for word in json.loads(value)["words"]:
                if word["id"] == chosen[rank]["id"]:
                    self._hear(client, rank, word)
        return True

    def _entries(self, client: StoreClient) -> dict[int, dict[str, Any]]:
        """The messages of the other ranks so far, by rank."""
        store = client.store
        ranks = [rank for rank in client.ranks if rank != self._rank]
        if not store.check([f"call/{rank}" for rank in ranks]):
            ranks = [rank for rank in ranks if store.check([f"call/{rank}"])]
        values = store.multi_get([f"call/{rank}" for rank in ranks]) if ranks else []
        return {rank: json.loads(value) for rank, value in zip(ranks, values, strict=True)}

    def _missing(self, client: StoreClient) -> list[int]:
        """The ranks that do not wait for what this one waits for, or else all others."""
        entries = self._entries(client)
        others = [rank for rank in client.ranks if rank != self._rank]
        calls = {rank: entries[rank]["calls"] if rank in entries else [] for rank in others}
        return [rank for rank in others if not any(map(self._agrees, calls[rank]))] or others

    def _look(self, client: StoreClient, missing: Callable[[], list[int]]) -> None:
        entries = client.call(self._entries, client)
        for rank, entry in entries.items():
            client.introduce(entry["host"], rank, entry["process"])
            self._note(entry)
        for rank, entry in entries.items():
            self._listen(client, rank, entry)
        self._looks += 1
        if self._mine:
            self._compare(client, entries)
        waited = time.monotonic() - self._began
        if waited >= _WARN and not self._warned:
            self._warned = True
            logger.warning(
                "[RunAI Streamer][Distributed] Rank %d has waited for %.0f s for %s to call "
                "stream_files() with is_distributed=True and the same files",
                self._rank,
                waited,
                client.describe(client.call(missing)),
            )

    @staticmethod
    def _words(client: StoreClient, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """The words of a rank, without those that it passes on from a rank that `client` asks."""
        return [word for word in entry["words"] if word.get("origin") not in client.ranks]

    def _note(self, entry: dict[str, Any]) -> None:
        self._last_word = max([self._last_word, *(word["number"] for word in entry["words"])])

    def _listen(
        self, client: StoreClient, rank: int, entry: dict[str, Any], surely: bool = False
    ) -> None:
        """Raises if a word of `rank` is about a call that this one waits for.

        `surely`: looks only at words that leave no doubt.
        """
        back = self._mine and any(map(self._agrees, entry["calls"]))  # in a call after that
        for word in self._words(client, entry):
            failed = "failed" in word
            same_files = word["files"] == self._described_files()
            if failed and word["kept"] and same_files and word["number"] == self._number:
                self._hear(client, rank, word)
            if surely or back:
                continue
            # A word that is there at the first look can be about an earlier call.
            now = time.monotonic()
            new = word["id"] not in self._seen and self._looks > 0
            since = self._seen.setdefault(word["id"], now)
            counts = word["number"] >= self._number and (same_files or failed)
            if (new and failed) or (counts and now - since >= _LAST):
                self._hear(client, rank, word)

    def _hear(self, client: StoreClient, rank: int, word: dict[str, Any]) -> None:
        origin = word.get("origin", rank)
        # A rank that shares with this one, but not with `origin`, hears of it from this one.
        kept: dict[str, Any] = {
            name: word[name] for name in ("failed", "alone", "kept") if name in word
        }
        self._heard = {**kept, "origin": origin}
        if "failed" in word:
            raise decode_error(word["failed"].encode())
        raise RunaiStreamerInvalidInputException(
            f"distributed streaming: {client.describe([origin])} does not take part "
            f"({word['alone']}), others do"
        )

    def _compare(self, client: StoreClient, entries: dict[int, dict[str, Any]]) -> None:
        """Raises if two ranks wait for different things, and go on doing so."""
        with self._scope.lock:
            calls = {self._rank: list(self._scope.calls.values())}
        calls |= {rank: entry["calls"] for rank, entry in entries.items() if entry["calls"]}
        about = {rank: set(map(self._about, calls[rank])) for rank in sorted(calls)}
        pairs = itertools.combinations(about, 2)
        pair = next((pair for pair in pairs if not about[pair[0]] & about[pair[1]]), None)
        if pair is None:
            self._difference = None, 0.0
            return
        left, right = (calls[rank][0] for rank in pair)
        found = left["id"], right["id"]
        if found != self._difference[0]:
            self._difference = found, time.monotonic()
        elif time.monotonic() - self._difference[1] >= _LAST:
            who = [(rank, client.hosts[rank]) for rank in pair]
            raise self._differ(who[0], who[1], self._describe_difference(client, left, right))

    def _describe_difference(
        self, client: StoreClient, left: dict[str, Any], right: dict[str, Any]
    ) -> str:
        if left["files"] == right["files"]:
            texts = [
                f"{n} ranks from rank {first}" for n, first, _ in (left["ranks"], right["ranks"])
            ]
            return f"the ranks that share: {texts[0]} and {texts[1]}"
        text = " and ".join(
            f"{count} files from {first!r} (digest {digest})"
            for count, first, digest in (left["files"], right["files"])
        )
        lists = self._lists(client, [left["id"], right["id"]])
        if lists is None:
            return f"the list of files: {text}"
        for number, (one, other) in enumerate(itertools.zip_longest(*lists), start=1):
            if one != other:
                shown = [repr(path) if path is not None else "none" for path in (one, other)]
                text += f"; the first difference is file {number}: {shown[0]} and {shown[1]}"
                break
        return f"the list of files: {text}"

    def _lists(self, client: StoreClient, calls: list[str]) -> list[list[str]] | None:
        """The files of `calls`, whose ranks have found the same difference; None if they differ in
        what is not shown, are too many, or do not come in time."""
        store = client.store
        mine = [shown_path(path) for path in self._paths]
        packed = zlib.compress(json.dumps(mine).encode()).hex()
        key = f"files/{self._id}"
        if len(packed) < _MAX_VALUE:
            client.call(store.set, key, packed)
            self._scope.lists.append(key)
        keys = [f"files/{call}" for call in calls]
        deadline = time.monotonic() + _LISTS
        while not client.call(store.check, keys):
            if time.monotonic() >= deadline or client.cancelled():
                return None
            time.sleep(0.01)
        values = client.call(store.multi_get, keys)
        return [json.loads(zlib.decompress(bytes.fromhex(value.decode()))) for value in values]

    def _differ(self, left: tuple[int, str], right: tuple[int, str], what: str) -> StreamerError:
        """The error of every rank, so that each of them can be the first to find it."""
        error = RunaiStreamerInvalidInputException(
            f"distributed streaming: rank {left[0]} on {left[1]} and rank {right[0]} on {right[1]} "
            f"differ in {what}"
        )
        error.rank, error.host = self._rank, self._host
        return error
