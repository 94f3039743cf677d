"""What a store is asked for, by its own log: each byte once."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support import models
from tests.support.needs import running
from tests.support.servers.counting import CountingStore

from .cluster import Cluster

pytestmark = pytest.mark.servers
Make = Callable[..., Cluster]
# A read that is aborted because it lags, as reads do on a busy machine, is sent twice in part.
NO_ABORTS = {"RUNAI_STREAMER_ABORT_STRAGGLERS": "0"}
NODES = {"node-a": "10.213.9.1", "node-b": "10.213.9.2"}


def serving(
    root: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
) -> AbstractContextManager[CountingStore]:
    return running(CountingStore(root, host, prefix))


def urls(store: CountingStore, files: list[str]) -> list[str]:
    return [f"{store.url}/{Path(file).name}" for file in files]


def expected(files: list[str]) -> list[list[str]]:
    return [list(pair) for path in files for pair in models.digests(path).items()]


def size_of(files: list[str]) -> int:
    return sum(Path(file).stat().st_size for file in files)


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_byte_is_sent_once(cluster: Make, tmp_path: Path, ranks: int) -> None:
    files = models.dense(tmp_path, files=3, tensors=24)
    with serving(tmp_path) as store:
        env = {"RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": str(16 << 20), **NO_ABORTS}
        for result in cluster(ranks, env).load(urls(store, files)).values():
            assert result["tensors"] == expected(files)
        assert size_of(files) <= store.sent() <= size_of(files) * 1.015
        headers = Counter(path for _, path, size in store.requests() if size == 32 << 10)
        assert set(headers.values()) == {1}  # one rank reads a file's header


def test_what_nobody_wants_is_not_sent(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=2, tensors=24)
    names = {"0": ["0.0?"], "1": ["0.0?", "0.1?"]}
    with serving(tmp_path) as store:
        env = {"RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": str(16 << 20), **NO_ABORTS}
        cluster(2, env).load(urls(store, files), names=names)
        # Without headers, which are asked for twice if the first response is late.
        data = sum(size for _, _, size in store.requests() if size > 32 << 10)
        assert 20 << 20 <= data <= (20 << 20) + 16


def test_a_missing_object_is_missing_on_every_rank(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=1)
    with serving(tmp_path) as store:
        wanted = [*urls(store, files), f"{store.url}/none.safetensors"]
        for result in cluster(2).run("load", wanted).values():
            assert result["error"] == "StreamerNotFoundError"
            assert "rank 1 on " in result["text"]
            assert "none.safetensors" in result["text"]


@pytest.fixture
def two_nodes() -> Iterator[dict[str, list[str]]]:
    """Commands to run under, by the name of a node: network and host name of its own."""

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, text=True)

    with contextlib.ExitStack() as stack:
        # A process in each namespace keeps it; nothing is mounted anywhere.
        prefixes = {}
        for node in NODES:
            waiting = 'hostname "$0" && echo ready && read -r line'
            holder = subprocess.Popen(
                ["unshare", "--net", "--uts", "sh", "-c", waiting, node],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(_end, holder)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            prefixes[node] = ["nsenter", f"--target={holder.pid}", "--net", "--uts"]
            run(*prefixes[node], "ip", "link", "set", "lo", "up")
        first, second = prefixes.values()
        peer = second[1].removeprefix("--target=")
        run(*first, *f"ip link add name wire type veth peer name wire netns {peer}".split())
        for node, prefix in prefixes.items():
            run(*prefix, "ip", "addr", "add", f"{NODES[node]}/24", "dev", "wire")
            run(*prefix, "ip", "link", "set", "wire", "up")
        yield prefixes


def _end(holder: subprocess.Popen[bytes]) -> None:
    holder.communicate(b"\n")


@pytest.fixture
def on_nodes(cluster: Make, two_nodes: dict[str, list[str]]) -> Make:
    """cluster() with rank i on node-a or node-b, as letter i of its first argument says."""

    def make(nodes: str, env: dict[str, str] | None = None, **more: Any) -> Cluster:
        prefixes = [two_nodes[f"node-{letter}"] for letter in nodes]
        env = {**(env or {}), "GLOO_SOCKET_IFNAME": "wire"}
        return cluster(len(nodes), env, prefixes=prefixes, address=NODES["node-a"], **more)

    return make


@pytest.mark.needs("network namespaces")
@pytest.mark.parametrize("everywhere", [False, True])
def test_two_nodes_share_by_their_setting(
    on_nodes: Make, tmp_path: Path, two_nodes: dict[str, list[str]], everywhere: bool
) -> None:
    files = models.dense(tmp_path, files=2, tensors=24)
    with serving(tmp_path, NODES["node-a"], tuple(two_nodes["node-a"])) as store:
        env = {
            "RUNAI_STREAMER_DIST_GLOBAL": str(int(everywhere)),
            "RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": str(16 << 20),
            **NO_ABORTS,
        }
        ranks = on_nodes("abab", env)
        for result in ranks.load(urls(store, files)).values():
            assert result["tensors"] == expected(files)
            assert result["notes"]["distributed"].startswith("4 " if everywhere else "2 ")
        sent: Counter[str] = Counter()
        for address, _, size in store.requests():
            sent[address] += size
    total = size_of(files)
    assert set(sent) == set(NODES.values())
    for size in sent.values():
        share = total / 2 if everywhere else total
        assert share * 0.95 <= size <= share * 1.05


@pytest.mark.needs("network namespaces")
def test_an_error_names_the_node(on_nodes: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=1)
    ranks = on_nodes("ab", {"RUNAI_STREAMER_DIST_GLOBAL": "1"})
    found = ranks.run("unknown_name", files)
    assert all("rank 1 on node-b" in result["text"] for result in found.values())


@pytest.mark.needs("network namespaces")
def test_a_mode_that_differs_is_named_on_every_node(on_nodes: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=1)
    ranks = on_nodes("abb", rank_env={1: {"RUNAI_STREAMER_DIST_GLOBAL": "1"}})
    for result in ranks.run("load", files).values():
        assert "rank 0 on node-a and rank 1 on node-b" in result["text"]
        assert "RUNAI_STREAMER_DIST_GLOBAL: 0 and 1" in result["text"]
        assert result["works"]


@pytest.mark.needs("network namespaces")
def test_a_rank_that_is_alone_on_its_node_reads_alone(on_nodes: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    ranks = on_nodes("abb")
    found = ranks.load(files, program="local_then_global")
    assert found[0]["first"] == "no other rank shares this one's reading"
    assert found[1]["first"].startswith("2 ranks")
    for result in found.values():
        assert result["notes"]["distributed"].startswith("3 ranks")
        assert result["tensors"] == expected(files)


@pytest.mark.needs("network namespaces")
def test_a_rank_that_dies_on_another_node_ends_in_a_timeout(on_nodes: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    env = {
        "RUNAI_STREAMER_DIST_GLOBAL": "1",
        "RUNAI_STREAMER_DIST_TIMEOUT": "3",
        "RUNAI_STREAMER_MEMORY_LIMIT": "2000000",
    }
    ranks = on_nodes("ab", env)
    (result,) = ranks.run("abandon", files, how="kill", afterwards=False).values()
    assert "TimeoutError" in result["bases"]
    assert "rank 1 on node-b" in result["text"]
