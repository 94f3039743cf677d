"""What happens to the others when something goes wrong on one rank."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._errors import StreamerOutOfMemoryError
from tests.support import models

from .cluster import Cluster

Make = Callable[..., Cluster]
WAYS = ["shared memory", "gloo"]


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("RUNAI_STREAMER_PARTITION_POLICY", "spans", "files"),
        ("RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE", "1000000", "2000000"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "1000000000", "-1"),
        ("RUNAI_STREAMER_PROCESS_GROUP_SIZE", "2", "3"),
        ("RUNAI_STREAMER_DIST_GLOBAL", "0", "1"),
        ("RUNAI_STREAMER_DIST_GLOBAL", "1", "0"),
        ("RUNAI_STREAMER_DIST", "1", "0"),
        ("RUNAI_STREAMER_DIST_TIMEOUT", "600", "soon"),
    ],
)
def test_settings_that_differ_are_named(
    cluster: Make, tmp_path: Path, name: str, value: str, other: str
) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    ranks = cluster(3, {name: value}, rank_env={1: {name: other}})
    found = ranks.run("load", files)
    failing = [0, 2] if name == "RUNAI_STREAMER_DIST" else [0, 1, 2]
    for rank in failing:
        assert found[rank]["error"] == "RunaiStreamerInvalidInputException"
        assert name in found[rank]["text"]
        assert "rank 1" in found[rank]["text"]
        assert found[rank]["works"]


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("other_version", "the version of this package"),
        ("other_files", "the first difference is file 1: "),
        ("other_device", "the kind of device: cpu and cuda"),
    ],
)
def test_what_else_differs_is_named(cluster: Make, tmp_path: Path, program: str, what: str) -> None:
    files = models.dense(tmp_path, files=2, tensors=1)
    for result in cluster(2).run(program, files).values():
        assert result["error"] == "RunaiStreamerInvalidInputException"
        assert what in result["text"]
        assert "rank 0 on " in result["text"] and "rank 1 on " in result["text"]
        assert result["works"]


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2)])
def test_a_file_that_differs_between_ranks_is_named(
    cluster: Make, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    directories = [tmp_path / "one", tmp_path / "other"]
    for directory, tensors in zip(directories, sizes, strict=True):
        directory.mkdir()
        models.dense(directory, files=1, tensors=tensors)
    job = {"directories": [str(directory) for directory in directories]}
    for result in cluster(2).run("own_copy", ["dense-0.safetensors"], **job).values():
        assert result["error"] == "StreamerChangedError"
        assert "dense-0.safetensors" in result["text"]
        assert result["works"]


def test_a_missing_file_is_missing_on_every_rank(cluster: Make, tmp_path: Path) -> None:
    files = [*models.dense(tmp_path, files=1, tensors=2), str(tmp_path / "none.safetensors")]
    for result in cluster(3).run("load", files).values():
        assert result["error"] == "StreamerNotFoundError"
        assert "none.safetensors" in result["text"]
        assert "rank 1 on " in result["text"]
        assert result["works"]


def test_ranks_that_never_come_are_all_named(cluster: Make, tmp_path: Path) -> None:
    """A group that is wider than those who load. The limit is 25 s by default."""
    files = models.dense(tmp_path, files=1, tensors=3)
    ranks = cluster(4, {"RUNAI_STREAMER_DIST_JOIN_TIMEOUT": "5"})
    found = ranks.run("some_come", files, come=[2, 3])
    for rank in (2, 3):
        assert "TimeoutError" in found[rank]["bases"]
        assert "no word from ranks 0, 1 for 5 s" in found[rank]["text"]
        assert "RUNAI_STREAMER_DIST_JOIN_TIMEOUT" in found[rank]["text"]
    assert all(result["works"] for result in found.values())


def test_ranks_that_do_not_come_again_are_all_named(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=3)
    ranks = cluster(4, {"RUNAI_STREAMER_DIST_JOIN_TIMEOUT": "5"})
    found = ranks.run("some_come", files, come=[2, 3], first=True)
    for rank in (2, 3):
        assert re.search(r"no word from ranks 0 on \S+, 1 on \S+ for 5 s", found[rank]["text"])
    assert all(result["works"] for result in found.values())


def test_a_bad_header_fails_on_every_rank(cluster: Make, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes((10).to_bytes(8, "little") + b"not json!!")
    for result in cluster(2).run("load", [str(bad)]).values():
        assert result["error"] == "SafetensorsHeaderError"
        assert "not valid JSON" in result["text"]
        assert result["works"]


def test_an_error_of_one_ranks_own_reaches_the_others(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    found = cluster(3).run("selection_fails", files)
    assert found[1]["error"] == "KeyError"
    for rank in (0, 2):
        assert found[rank]["error"] == "StreamerError"
        assert "rank 1 on " in found[rank]["text"]
        assert "no such layer" in found[rank]["text"]
        assert found[rank]["rank"] == 1
    assert all(result["works"] for result in found.values())


def test_a_rank_without_a_thread_is_named_at_once(cluster: Make, tmp_path: Path) -> None:
    """The timeout would be 600 s."""
    files = models.dense(tmp_path, files=1, tensors=2)
    for result in cluster(3).run("no_thread", files).values():
        assert result["error"] == "StreamerOutOfMemoryError"
        assert result["rank"] == 1
        assert "has no thread" in result["text"]


def test_memory_that_the_host_does_not_have_is_an_error_that_says_so() -> None:
    size = 1 << 60
    with pytest.raises(StreamerOutOfMemoryError, match=f"the system has no memory for {size} b"):
        HostMemory().claim(size)


def test_an_unknown_name_on_one_rank_fails_on_all(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    for result in cluster(2).run("unknown_name", files).values():
        assert result["error"] == "RunaiStreamerInvalidInputException"
        assert "no.such.tensor" in result["text"]
        assert "rank 1 on " in result["text"]


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_read_fails_on_every_rank(cluster: Make, tmp_path: Path, way: str) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    limit = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000"}  # so that the end is still unread
    found = cluster(3, limit).run("truncated", files, left=20 << 20, way=way)
    assert len({result["error"] for result in found.values()}) == 1
    assert len({result["text"] for result in found.values()}) <= 3
    for result in found.values():
        assert "StreamerIOError" in result["bases"]
        assert "OSError" in result["bases"]
        assert Path(files[-1]).name in result["text"]
        assert "rank " in result["text"] and " on " in result["text"]
        assert result["works"]


@pytest.mark.parametrize(
    ("how", "way"), [("close", WAYS[0]), ("raise", WAYS[0]), ("close", WAYS[1])]
)
def test_a_rank_that_leaves_early_is_named_at_once(
    cluster: Make, tmp_path: Path, how: str, way: str
) -> None:
    """The timeout would be 600 s."""
    files = models.dense(tmp_path, files=2, tensors=30)
    limit = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000"}
    found = cluster(3, limit).run("abandon", files, how=how, way=way)
    for rank in (0, 2):
        assert "TimeoutError" in found[rank]["bases"]
        assert "rank 1 on " in found[rank]["text"]
        assert found[rank]["works"]
    assert found[1]["works"]


@pytest.mark.parametrize(("how", "way"), [("kill", WAYS[0]), ("exit", WAYS[0]), ("kill", WAYS[1])])
def test_a_rank_that_dies_is_named_at_once(
    cluster: Make, tmp_path: Path, how: str, way: str
) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    limit = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000"}
    job = {"how": how, "way": way, "afterwards": False, "store_until": [2]}
    found = cluster(3, limit).run("abandon", files, **job)
    assert sorted(found) == [0, 2]
    for result in found.values():
        assert "TimeoutError" in result["bases"]
        assert "rank 1 on " in result["text"]
        assert result["rank"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_streamer_that_is_dropped_is_named_at_once(
    cluster: Make, tmp_path: Path, way: str
) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    found = cluster(3, {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000"}).run("dropped", files, way=way)
    for rank in (0, 2):
        assert "TimeoutError" in found[rank]["bases"]
        assert found[rank]["rank"] == 1
        assert found[rank]["works"]


@pytest.mark.parametrize(
    ("who", "tensors", "way", "text"),
    [
        (1, 1, WAYS[1], "rank 1 on|ranks 1 on"),
        # Which has the key-value store: there, calls can't be told to end.
        (0, 1, WAYS[0], "the key-value store of torch.distributed did not answer for 2 s"),
        (0, 0, WAYS[0], "the key-value store of torch.distributed did not answer for 2 s"),
    ],
)
def test_a_process_that_is_stopped_ends_in_a_timeout(
    cluster: Make, tmp_path: Path, who: int, tensors: int, way: str, text: str
) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    env = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000", "RUNAI_STREAMER_DIST_TIMEOUT": "2"}
    found = cluster(3, env).run("suspended", files, who=who, way=way, tensors=tensors)
    for rank in {0, 1, 2} - {who}:
        assert "TimeoutError" in found[rank]["bases"]
        assert re.search(text, found[rank]["text"])
        assert found[rank]["works"]


def test_a_generator_that_nobody_asks_ends_in_a_timeout(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=2, tensors=30)
    env = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000", "RUNAI_STREAMER_DIST_TIMEOUT": "3"}
    found = cluster(3, env).run("abandon", files, how="hold")
    for rank in (0, 2):
        assert "TimeoutError" in found[rank]["bases"]
        assert "rank 1 on " in found[rank]["text"]
        assert found[rank]["works"]
    assert found[1]["works"]


# Where a rank can fail between the call of stream_files() and the end of its stream.
STEPS = [
    ("_device.registry", "", "sink_for"),
    ("_distributed.streamer", "_distributedStreamerParams", "find_local_ranks"),
    ("_distributed.meeting", "Call", "nodes"),
    ("_distributed.meeting", "Call", "meet"),
    ("_distributed.membership", "", "hello"),
    ("_distributed.membership", "", "greet"),
    ("_tensor_requests", "", "check_tensors"),
    ("_distributed.shared_reader", "", "pack_prefixes"),
    ("_distributed.shared_stream", "", "wanted_of"),
    ("_distributed.shared_stream", "", "agree_on_plan"),
    ("_distributed.shared_stream", "", "ExchangeThread"),
    ("_distributed.reader", "PieceReader", "start"),
    ("_distributed.reader", "PieceReader", "wait"),
    ("_distributed.transport", "GlooTransport", "exchange"),
    ("_distributed.exchange_thread", "ExchangeThread", "_hand_over"),
]


@pytest.mark.parametrize("failure", ["RuntimeError", "KeyboardInterrupt"])
@pytest.mark.parametrize("where", STEPS, ids=lambda where: where[-1])
def test_whatever_fails_reaches_the_others_and_the_next_load_works(
    cluster: Make, tmp_path: Path, where: tuple[str, str, str], failure: str
) -> None:
    """The error of a timeout would not have the text of the failure."""
    files = models.dense(tmp_path, files=2, tensors=4)
    way = "gloo" if where[1] == "GlooTransport" else "shared memory"
    found = cluster(3).load(
        files, program="fails_then_loads", where=where, failure=failure, way=way
    )
    # What the transport raises is taken for a lost connection.
    assert found[1]["first"]["error"] == failure or "exchange with" in found[1]["first"]["text"]
    for rank in (0, 2):
        assert "rank 1 on " in found[rank]["first"]["text"]
        assert "the first attempt" in found[rank]["first"]["text"]
    for result in found.values():
        assert len(result["tensors"]) == 8


def test_ctrl_c_on_a_rank_that_waits_reaches_the_others(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=3)
    env = {"RUNAI_STREAMER_DIST_JOIN_TIMEOUT": "200"}
    found = cluster(3, env).load(files, program="interrupted")
    assert found[1]["first"]["kind"] == "KeyboardInterrupt"
    for rank in (0, 2):
        assert "rank 1 on " in found[rank]["first"]["text"]
        assert "KeyboardInterrupt" in found[rank]["first"]["text"]
    for result in found.values():
        assert len(result["tensors"]) == 3
