"""Every rank gets every tensor; each byte is read once. Real processes, gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.support import models

from .cluster import Cluster

Make = Callable[..., Cluster]
SHARED = "shared memory"
WAYS = [SHARED, "gloo"]


def digests_of(files: list[str]) -> list[tuple[str, str]]:
    return [pair for path in files for pair in models.digests(path).items()]


def read_here(result: dict) -> int:
    """Bytes that the rank read from storage."""
    return int(result["notes"]["distributed"].split(", ")[1].split()[0])


@pytest.mark.parametrize(("ranks", "way"), [(2, SHARED), (3, SHARED), (4, SHARED), (3, "gloo")])
def test_every_rank_yields_every_tensor_in_file_order(
    cluster: Make, tmp_path: Path, ranks: int, way: str
) -> None:
    files, expected = models.mixture(tmp_path)
    found = cluster(ranks).load(files, way=way)
    for result in found.values():
        assert result["notes"]["distributed_way"] == way
        assert result["tensors"] == [list(pair) for pair in expected]
        assert result["count"] == len(expected)
        assert result["forms"] == found[0]["forms"]
    total = sum(size for size in found[0]["owned"])
    assert found[0]["bytes"] == total
    assert sum(read_here(result) for result in found.values()) == total
    forms = {name: form for (name, _), form in zip(expected, found[0]["forms"], strict=True)}
    assert forms["scale"] == ["torch.float8_e4m3fn", [7, 5]]
    assert forms["flags"] == ["torch.bool", [13]]
    assert forms["scalar"] == ["torch.float64", []]
    assert forms["empty"] == ["torch.float32", [0, 4]]


@pytest.mark.skipif(
    not hasattr(dist.Store, "list_keys"), reason="this torch can't list the keys of a store"
)
@pytest.mark.parametrize("way", WAYS)
def test_loads_leave_nothing_in_the_store(cluster: Make, tmp_path: Path, way: str) -> None:
    files, _ = models.mixture(tmp_path)
    found = cluster(3).load(files, way=way, program="keys_left")
    for result in found.values():
        first, *later = result["left"]  # what each rank tells about itself
        assert len(first) == 6
        assert later == [first] * 4


@pytest.mark.parametrize("policy", ["chunks", "files"])
@pytest.mark.parametrize("everywhere", ["0", "1"])
@pytest.mark.parametrize("way", WAYS)
def test_other_policies_yield_the_same(
    cluster: Make, tmp_path: Path, policy: str, everywhere: str, way: str
) -> None:
    files, expected = models.mixture(tmp_path)
    env = {"RUNAI_STREAMER_PARTITION_POLICY": policy, "RUNAI_STREAMER_DIST_GLOBAL": everywhere}
    found = cluster(2, env).load(files, way=way)
    for result in found.values():
        assert sorted(result["tensors"]) == sorted(list(pair) for pair in expected)
        assert result["tensors"] == found[0]["tensors"]
    if policy == "files":
        sizes = sorted(read_here(result) for result in found.values())
        assert sum(sizes) == found[0]["bytes"]


def test_ranks_of_torchrun_get_every_tensor(cluster: Make, tmp_path: Path) -> None:
    files, expected = models.mixture(tmp_path)
    found = cluster(2).torchrun("load", files)
    for result in found.values():
        assert result["tensors"] == [list(pair) for pair in expected]
        assert result["works"]


def test_memory_of_tensors_is_their_own(cluster: Make, tmp_path: Path) -> None:
    """A kept tensor holds no more than the group of small ones that it came with."""
    files = models.dense(tmp_path, files=1, tensors=3)
    found = cluster(2).load(files)
    for result in found.values():
        assert result["storages"] == result["owned"]


def test_staging_memory_is_bounded_and_goes_with_the_stream(cluster: Make, tmp_path: Path) -> None:
    """Tensors are larger than it is."""
    files = models.dense(tmp_path, files=1, tensors=3)
    for way, bound in ((SHARED, 3 * (128 << 10)), ("gloo", 2 * (256 << 10))):
        for result in cluster(2).load(files, way=way).values():
            assert 0 < result["ring"][1] * result["ring"][2] <= bound + 4 * 4096
            assert result["shared_mappings"][0] == (2 if way == SHARED else 0)
            assert result["shared_mappings"][1] == 0
            assert result["tensors"] == [list(pair) for pair in digests_of(files)]


def test_memory_that_one_rank_cannot_map_is_shared_by_none(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=3)
    for result in cluster(3).load(files, way="hidden from rank 1").values():
        assert result["notes"]["distributed_way"] == "gloo"
        assert result["tensors"] == [list(pair) for pair in digests_of(files)]


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(
            ["unshare", "--user", "--map-root-user"],
            id="user namespace",
            marks=pytest.mark.needs("user namespaces"),
        ),
        pytest.param(
            ["unshare", "--pid", "--fork", "--mount-proc"],
            id="pid namespace",
            marks=pytest.mark.needs("pid namespaces"),
        ),
        pytest.param(
            ["setpriv", "--inh-caps=-all", "--bounding-set=-all"],
            id="capabilities",
            marks=pytest.mark.needs("dropping capabilities"),
        ),
    ],
)
def test_a_rank_that_may_not_look_into_others_makes_all_use_gloo(
    cluster: Make, tmp_path: Path, prefix: list[str]
) -> None:
    """As ranks in containers of their own."""
    files = models.dense(tmp_path, files=1, tensors=3)
    for result in cluster(2, prefixes=[[], prefix]).load(files).values():
        assert result["notes"]["distributed_way"] == "gloo"
        assert result["tensors"] == [list(pair) for pair in digests_of(files)]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_a_stream(cluster: Make, tmp_path: Path, way: str) -> None:
    """No connection, no thread, no memory; and nobody needs to collect garbage."""
    files = models.dense(tmp_path, files=1, tensors=2)
    for result in cluster(2).load(files, program="again_and_again", times=8, way=way).values():
        assert len(set(result["connections"][1:])) == 1, result["connections"]


@pytest.mark.parametrize("way", WAYS)
def test_many_small_tensors_reach_every_rank(cluster: Make, tmp_path: Path, way: str) -> None:
    path = tmp_path / "small.safetensors"
    expected = models.write_specs(path, [(f"t.{i}", "U8", (64,)) for i in range(60_000)])
    found = cluster(2).load([str(path)], way=way)
    for result in found.values():
        assert result["tensors"] == [list(pair) for pair in expected.items()]
        assert result["storages"] == result["owned"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("files", ["none", "only_empty", "tiny"])
def test_less_than_there_are_ranks(cluster: Make, tmp_path: Path, files: str, way: str) -> None:
    path = tmp_path / "a.safetensors"
    specs = {"none": [], "only_empty": [("e", "F32", (0,))], "tiny": [("t", "U8", (3,))]}[files]
    expected = models.write_specs(path, specs)
    found = cluster(3).load([] if files == "none" else [str(path)], way=way)
    for result in found.values():
        assert result["tensors"] == [list(pair) for pair in expected.items()]


def test_one_rank_reads_alone(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    (result,) = cluster(1).load(files).values()
    assert result["tensors"] == [list(pair) for pair in digests_of(files)]
    assert result["ring"] is None


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_given_twice_is_yielded_twice(
    cluster: Make, tmp_path: Path, way: str
) -> None:
    (path,) = models.dense(tmp_path, files=1, tensors=3)
    found = cluster(2).load([path, path], way=way)
    for result in found.values():
        assert sorted(result["tensors"]) == sorted([list(p) for p in digests_of([path])] * 2)
    assert sum(read_here(result) for result in found.values()) == 3 << 20


@pytest.mark.parametrize("way", WAYS)
def test_into_memory_that_exists(cluster: Make, tmp_path: Path, way: str) -> None:
    files = models.dense(tmp_path)
    for result in cluster(2).load(files, program="into", way=way).values():
        assert result["same"]
        assert result["tensors"] == dict(digests_of(files))


@pytest.mark.parametrize("way", [SHARED, "gloo"])
def test_ranks_may_want_different_tensors(cluster: Make, tmp_path: Path, way: str) -> None:
    files = models.dense(tmp_path)
    names = {"0": ["0.*", "1.00"], "1": ["1.*"], "2": ["0.0?", "1.1?"]}
    found = cluster(3).load(files, names=names, way=way)
    everything = dict(digests_of(files))
    wanted = {
        0: [name for name in everything if name.startswith("0.") or name == "1.00"],
        1: [name for name in everything if name.startswith("1.")],
        2: [name for name in everything if name.startswith(("0.0", "1.1"))],
    }
    for rank, result in found.items():
        assert sorted(result["tensors"]) == sorted([n, everything[n]] for n in wanted[rank])
    assert sum(read_here(result) for result in found.values()) == len(everything) << 20


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_wants_nothing_reads_nothing(cluster: Make, tmp_path: Path, way: str) -> None:
    files = models.dense(tmp_path, files=1, tensors=4)
    found = cluster(3).load(files, names={"0": ["0.*"], "1": [], "2": ["0.01"]}, way=way)
    assert [len(result["tensors"]) for _, result in sorted(found.items())] == [4, 0, 1]
    assert read_here(found[1]) == 0


def test_disjoint_wishes_send_nothing(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path)
    found = cluster(2).load(files, names={"0": ["0.*"], "1": ["1.*"]})
    for rank, result in found.items():
        assert {name[0] for name, _ in result["tensors"]} == {str(rank)}
        assert read_here(result) == 12 << 20


def test_two_streamers_at_once_and_again(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path)
    for result in cluster(2).load(files, program="twice").values():
        for one in result["results"]:
            assert one == [list(pair) for pair in digests_of(files)]


@pytest.mark.parametrize("way", WAYS)
def test_iterators_come_and_go(cluster: Make, tmp_path: Path, way: str) -> None:
    files, expected = models.mixture(tmp_path)
    for result in cluster(2).load(files, program="iterators", way=way).values():
        wanted = [list(pair) for pair in expected]
        assert result["results"] == [wanted, wanted]
        assert result["ended"].startswith("the load is complete")
        assert result["ended"].endswith(" StreamerClosedError")


def test_a_stream_is_shared_whatever_came_before_it(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=3)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"too short")
    found = cluster(2).load(files, program="shared_after_another", bad=str(bad))
    for rank, result in found.items():
        assert len(result["tensors"]) == 3
        assert [ring and ring[0] for ring in result["rings"]] == [rank, rank]
        assert result["chunks"] == found[0]["chunks"]


def test_headers_after_a_shared_stream_are_read_alone(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=2, tensors=3)
    found = cluster(2).load(files, program="headers_after_a_shared_stream")
    assert all(result["ring"] is not None for result in found.values())


def test_the_default_group_may_be_made_anew(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=3)
    for result in cluster(2).load(files, program="reborn").values():
        assert result["first"] == result["tensors"] == [list(p) for p in digests_of(files)]


@pytest.mark.parametrize(
    "env",
    [
        {"RUNAI_STREAMER_DIST": "0"},
        {"RUNAI_STREAMER_DIST": "auto"},  # gloo is not NCCL
    ],
)
def test_switched_off_waits_for_nobody(cluster: Make, tmp_path: Path, env: dict[str, str]) -> None:
    files = models.dense(tmp_path)
    found = cluster(2, env).load(files, program="only_first", is_distributed=True)
    assert found[0]["tensors"] == [list(pair) for pair in digests_of(files)]


def test_not_distributed_waits_for_nobody(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path)
    found = cluster(2).load(files, program="only_first", is_distributed=False)
    assert found[0]["tensors"] == [list(pair) for pair in digests_of(files)]


def test_a_host_may_replace_the_choice_of_ranks(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path)
    found = cluster(2).load(files, program="replaced", is_distributed=True)
    assert found[0]["tensors"] == [list(pair) for pair in digests_of(files)]


def test_a_group_of_the_callers(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path)
    found = cluster(3).run("group", files, ranks=[0, 2])
    for rank in (0, 2):
        assert found[rank]["tensors"] == [list(pair) for pair in digests_of(files)]
        assert read_here(found[rank]) == 12 << 20
    assert "process_group: rank 1 is not one of its ranks" in found[1]["text"]


def test_a_group_of_one_reads_alone(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    found = cluster(2).run("group", files, ranks=[1])
    assert found[1]["tensors"] == [list(pair) for pair in digests_of(files)]


def test_headers_alone_wait_for_nobody(cluster: Make, tmp_path: Path) -> None:
    """Whatever was shared before."""
    files = models.dense(tmp_path, files=2, tensors=30)
    env = {"RUNAI_STREAMER_MEMORY_LIMIT": "2000000"}
    found = cluster(2, env).load(files, program="headers_alone")
    assert found[0]["inspected"] == [found[0]["names"]] * 6
    assert "rank 0 on " in found[1]["left"]
    for result in found.values():
        assert len(result["tensors"]) == 60


def test_a_group_without_a_store_reads_alone(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=2)
    for result in cluster(2).load(files, program="group_without_a_store").values():
        assert result["tensors"] == [list(pair) for pair in digests_of(files)]
        assert result["notes"]["distributed"] == "the default process group has no key-value store"


def test_a_device_mesh_is_a_group(cluster: Make, tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=4)
    for result in cluster(4).load(files, program="mesh").values():
        assert result["tensors"] == [list(pair) for pair in digests_of(files)]
        assert result["notes"]["distributed"].startswith("2 ranks")
        assert "a DeviceMesh of one dimension, not of 2" in result["errors"][0]
