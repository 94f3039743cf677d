"""A model of distributed loads: `python -m benchmarks.dist_model`.

Prints how long 8 to 1,024 ranks need by four ways of sharing, and checks the model against the runs
of `make bench-dist` if there are results. Every load is a pipeline of rounds with two buffers,
as the streamer's: read, agree, exchange, copy out.

- alone: every rank reads everything.
- local: the ranks of a node divide the reading; every node reads everything.
- global: all ranks divide the reading, and one all-gather spans the nodes.
- tree: one node reads (its ranks divide that), and the nodes hand on what they get along a binary
  tree, piece by piece; then as local. Not built: it is here to see whether it should be.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.report import RESULTS


@dataclass(frozen=True)
class Cluster:
    """Rates in bytes per second, times in seconds."""

    ranks: int
    ranks_per_node: int = 8
    model: float = 140e9  # bytes
    link: float = 50e9  # of a node, each direction: storage and other nodes share it
    store: float = 100e9  # of the store, for all ranks together
    inside: float = 200e9  # into one rank from the others of its node
    copy: float = 1000e9  # from staging to tensors
    round_bytes: float = 1 << 30
    first_byte: float = 0.03  # of a read
    store_message: float = 20e-6  # one message to the key-value store, which serves one at a time
    hop: float = 20e-6  # one step of a ring between nodes

    @property
    def nodes(self) -> int:
        return max(1, self.ranks // self.ranks_per_node)

    @property
    def rounds(self) -> int:
        return math.ceil(self.model / self.round_bytes)

    def agree(self, ranks: int, groups: int = 1) -> float:
        """A barrier: three messages of each rank, and those of all ranks come at once."""
        return 3 * ranks * groups * self.store_message


def pipeline(rounds: int, read: float, agree: float, exchange: float, copy: float) -> float:
    """Seconds until the last copy. A buffer is read into again when it has been copied out."""
    read_done = [0.0] * rounds
    copied = [0.0] * rounds
    for number in range(rounds):
        free = copied[number - 2] if number >= 2 else 0.0
        before = read_done[number - 1] if number else 0.0
        read_done[number] = max(free, before) + read
        ready = max(read_done[number] + agree, copied[number - 1] if number else 0.0)
        copied[number] = ready + exchange + copy
    return copied[-1] if rounds else 0.0


def alone(c: Cluster) -> float:
    size = c.round_bytes
    read = size / min(c.link / c.ranks_per_node, c.store / c.ranks)
    return c.first_byte + pipeline(c.rounds, read, 0, 0, size / c.copy)


def local(c: Cluster) -> float:
    size = c.round_bytes
    read = size / min(c.link, c.store / c.nodes)
    exchange = size * (1 - 1 / c.ranks_per_node) / c.inside
    # The nodes agree by themselves, but over the one key-value store.
    agree = c.agree(min(c.ranks, c.ranks_per_node), c.nodes)
    return c.first_byte + pipeline(c.rounds, read, agree, exchange, size / c.copy)


def everywhere(c: Cluster) -> float:
    size = c.round_bytes
    read = size / min(c.link * c.nodes, c.store)
    # Each byte comes into a node once: from storage, or by the ring of the all-gather. What one
    # round reads takes the link from what the other one exchanges.
    between = size / c.link if c.nodes > 1 else 0.0
    within = size * (1 - 1 / c.ranks) / c.inside
    exchange = max(between, within) + (c.nodes + c.ranks_per_node) * c.hop
    return c.first_byte + pipeline(c.rounds, read, c.agree(c.ranks), exchange, size / c.copy)


def tree(c: Cluster) -> float:
    """Each node sends to two others, so a tree's rate is half of the link's; storage shares the
    receiving direction only."""
    size = c.round_bytes
    depth = math.ceil(math.log2(c.nodes + 1)) - 1 if c.nodes > 1 else 0
    rate = min(c.store, c.link / 2 if depth else c.link)
    exchange = size * (1 - 1 / c.ranks_per_node) / c.inside
    agree = c.agree(min(c.ranks, c.ranks_per_node), c.nodes)
    piece = 64e6  # handed on as soon as it is there
    delay = depth * (piece / (c.link / 2) + c.hop)
    return c.first_byte + delay + pipeline(c.rounds, size / rate, agree, exchange, size / c.copy)


WAYS: dict[str, Callable[[Cluster], float]] = {
    "alone": alone,
    "local": local,
    "global": everywhere,
    "tree": tree,
}


def table() -> str:
    """Markdown: seconds of each way, the best one marked."""
    head = "| ranks | link | store | " + " | ".join(WAYS) + " |"
    lines = [head, "|" + "---:|" * (3 + len(WAYS))]
    for store in (25e9, 100e9, 1000e9):
        for gigabits in (100, 400):
            for ranks in (8, 16, 64, 256, 1024):
                cluster = Cluster(ranks, link=gigabits / 8 * 1e9, store=store)
                seconds = {name: way(cluster) for name, way in WAYS.items()}
                best = min(seconds.values())
                cells = [
                    f"**{value:.1f}**" if value <= best * 1.02 else f"{value:.1f}"
                    for value in seconds.values()
                ]
                lines.append(
                    f"| {ranks} | {gigabits} Gbit/s | {store / 1e9:.0f} GB/s | "
                    + " | ".join(cells)
                    + " |"
                )
    return "\n".join(lines)


@dataclass(frozen=True)
class Machine:
    """Ranks on one machine, where all that moves bytes costs processor time."""

    cpus: int
    read_cpu: float  # seconds for each byte that is read
    share_cpu: float  # seconds for each byte that a rank takes
    message: float  # seconds for each of the messages by which ranks agree

    def seconds(self, model: float, ranks: int, rate: float = math.inf) -> float:
        """Of a load from a store of `rate`. Three buffers: agreeing does not hold up the reading
        where the store is slow, and does where processors are."""
        size = ranks * (16 << 20)
        work = size * (self.read_cpu + ranks * self.share_cpu) / self.cpus
        agree = 3 * ranks * self.message
        each = max(size / rate, work + agree)
        return model / size * each + work


def check() -> str:
    """The model against measured runs: calibrated with the run of two ranks and that of the slow
    store alone, it predicts the others."""
    path = RESULTS / "dist.json"
    if not path.exists():
        return "No results of `make bench-dist` to check the model with."
    report = json.loads(path.read_text())
    rows, cpus = report["rows"], report["machine"]["cpus"]

    def of(row: str, label: str, key: str) -> float:
        return float(rows[row]["loaders"][label][key])

    model = rows["dense"]["bytes"]
    read_cpu = of("slow_store", "store alone", "cpu_seconds_per_gb") * 1e-9
    two = of("dense", "ours, 2 ranks", "cpu_seconds_per_gb") * 1e-9
    machine = Machine(cpus, read_cpu, max(0.0, two - read_cpu) / 2, 0.0)
    measured_two = of("dense", "ours, 2 ranks", "seconds")
    rounds = model / (2 * (16 << 20))
    message = max(0.0, measured_two - machine.seconds(model, 2)) / rounds / 6
    machine = replace(machine, message=message)
    lines = ["| run | measured | model | error |", "|---|---:|---:|---:|"]
    runs = [("dense", "ours, 4 ranks", 4, math.inf), ("slow_store", "ours, 4 ranks", 4, 200e6)]
    for row, label, ranks, rate in runs:
        measured = of(row, label, "seconds")
        seconds = machine.seconds(rows[row]["bytes"], ranks, rate)
        error = seconds / measured - 1
        lines.append(f"| {row}, {label} | {measured:.1f} s | {seconds:.1f} s | {error:+.0%} |")
    return (
        f"From the runs of 2 ranks and of the slow store alone: {read_cpu * 1e9:.2f} CPU seconds "
        f"to read a GB, {machine.share_cpu * 1e9:.2f} for each rank to take it, "
        f"{message * 1e3:.1f} ms for a message. Then the others are:\n\n" + "\n".join(lines)
    )


def main() -> int:
    c = Cluster(8)
    print(
        f"A model of {c.model / 1e9:.0f} GB, {c.ranks_per_node} ranks per node, "
        f"{c.inside / 1e9:.0f} GB/s between the ranks of a node; seconds until every rank has "
        "every tensor.\n"
    )
    print(table())
    print("\nWhere agreeing costs nothing (a barrier of its own for each node):\n")
    free = replace(Cluster(1024), store_message=0.0)
    print(", ".join(f"{name} {way(free):.1f} s" for name, way in WAYS.items()), "at 1,024 ranks\n")
    print(check())
    return 0


if __name__ == "__main__":
    sys.exit(main())
