"""The plan, as a function."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runai_model_streamer._distributed.plan import Plan, coalesce, layout

POLICIES = ["spans", "chunks", "files"]


@st.composite
def wants(draw: st.DrawFn) -> list[list[list[tuple[int, int]]]]:
    """What some ranks want of some files."""
    files = draw(st.integers(1, 4))
    interval = st.tuples(st.integers(0, 300_000), st.integers(0, 90_000)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    )
    return [
        [coalesce(draw(st.lists(interval, max_size=5))) for _ in range(files)]
        for _ in range(draw(st.integers(1, 5)))
    ]


@settings(max_examples=50)
@given(wants(), st.integers(1 << 12, 1 << 20), st.sampled_from(POLICIES))
def test_each_byte_is_read_once_by_who_wants_it_and_reaches_all(
    wanted: list[list[list[tuple[int, int]]]], round_bytes: int, policy: str
) -> None:
    plan = Plan(wanted, round_bytes, policy)
    got: list[list[list[tuple[int, int]]]] = [[[] for _ in wanted[0]] for _ in wanted]
    read: list[list[tuple[int, int]]] = [[] for _ in wanted[0]]
    for number in range(plan.rounds):
        for piece in plan.pieces(number):
            assert piece.owner in piece.receivers
            assert piece.size <= piece.slot
            for file, start, end in piece.extents:
                read[file].append((start, end))
                for receiver in piece.receivers:
                    got[receiver][file].append((start, end))
    for rank, files in enumerate(wanted):
        for file, intervals in enumerate(files):
            assert coalesce(got[rank][file]) == intervals
    for file, intervals in enumerate(read):
        union = coalesce(part for one in wanted for part in one[file])
        assert sum(e - s for s, e in intervals) == sum(e - s for s, e in union)
    assert sum(plan.read_bytes(rank) for rank in range(len(wanted))) == plan.bytes


@settings(max_examples=20)
@given(wants(), st.sampled_from(POLICIES))
def test_is_equal_on_all_ranks(wanted: list[list[list[tuple[int, int]]]], policy: str) -> None:
    one, other = Plan(wanted, 1 << 16, policy), Plan(wanted, 1 << 16, policy)
    assert one.digest() == other.digest()
    assert [one.pieces(i) for i in range(one.rounds)] == [
        other.pieces(i) for i in range(other.rounds)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("policy", ["spans", "chunks"])
def test_the_ranks_read_equal_shares(ranks: int, policy: str) -> None:
    wanted = [[[(1000, 50_000_000)], [(8, 30_000_001)]]] * ranks
    plan = Plan(wanted, 8 << 20, policy)
    read = [plan.read_bytes(rank) for rank in range(ranks)]
    assert sum(read) == plan.bytes
    assert max(read) <= plan.bytes / ranks * 1.03


def test_spans_are_contiguous_and_in_file_order() -> None:
    wanted = [[[(0, 10_000_000)], [(64, 9_999_999)]]] * 3
    plan = Plan(wanted, 1 << 20, "spans")
    position = (0, 0)
    for number in range(plan.rounds):
        for piece in plan.pieces(number):
            for file, start, end in piece.extents:
                assert (file, start) == position or (position[0] + 1, 64) == (file, start)
                position = (file, end)
    assert position == (1, 9_999_999)


def test_files_go_to_one_rank_each() -> None:
    wanted = [[[(0, size)] for size in (9_000_000, 5_000_000, 5_000_000, 1_000_000)]] * 2
    plan = Plan(wanted, 1 << 20, "files")
    owners: dict[int, set[int]] = {}
    for number in range(plan.rounds):
        for piece in plan.pieces(number):
            for file, _, _ in piece.extents:
                owners.setdefault(file, set()).add(piece.owner)
    assert all(len(ranks) == 1 for ranks in owners.values())
    assert [plan.read_bytes(rank) for rank in range(2)] == [10_000_000, 10_000_000]


@pytest.mark.parametrize("policy", POLICIES)
def test_staging_stays_near_the_size_of_a_round(policy: str) -> None:
    wanted = [[[(0, 70_000_000)]], [[(0, 30_000_000)]], [[(20_000_000, 70_000_000)]]]
    plan = Plan(wanted, 4 << 20, policy)
    for rank in range(3):
        for number in range(plan.rounds):
            _, size = layout(plan.pieces(number), rank)
            assert size <= (4 << 20) + 12 * 4096


def test_what_only_one_rank_wants_it_reads_by_itself() -> None:
    plan = Plan([[[(0, 1000)]], [[(1000, 3000)]]], 1 << 20, "spans")
    pieces = [piece for piece in plan.pieces(0) if piece.size]
    assert [(piece.owner, piece.receivers, piece.size) for piece in pieces] == [
        (0, (0,), 1000),
        (1, (1,), 2000),
    ]


def test_nothing_wanted_needs_no_round() -> None:
    assert Plan([[[]], [[]]], 1 << 20, "spans").rounds == 0
    assert Plan([], 1 << 20, "spans").rounds == 0
