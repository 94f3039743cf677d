"""Shows that reading, copying and consuming overlap: `python -m benchmarks.overlap`.

Runs on the stand-in driver of tests/support/cuda_standin, with a link of a chosen speed, so that it
needs no GPU: a file that is read at a limited pace goes to "device" memory, and a consumer takes
its time with every tensor. Prints when each of the three was at work, and how long two of them were
at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import standin as standin_driver
from benchmarks.checkpoints import TensorSpec, write_shard

MIB = 1 << 20
Spans = list[tuple[int, int]]  # begin and end in nanoseconds of CLOCK_MONOTONIC


def merged(spans: Spans) -> Spans:
    result: Spans = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def common(one: Spans, other: Spans) -> Spans:
    """When both were at work."""
    both = []
    for begin, end in merged(one):
        for first, last in merged(other):
            if first < end and begin < last:
                both.append((max(begin, first), min(end, last)))
    return both


def seconds(spans: Spans) -> float:
    return sum(end - begin for begin, end in merged(spans)) / 1e9


def bar(spans: Spans, start: int, end: int, width: int = 72) -> str:
    """One character for each part of the time; filled if the work took half of it."""
    step = (end - start) / width
    cells = []
    for cell in range(width):
        window = [(int(start + cell * step), int(start + (cell + 1) * step))]
        share = seconds(common(spans, window)) * 1e9 / step
        cells.append("#" if share >= 0.5 else "-" if share > 0 else " ")
    return "".join(cells)


def axis(total: float, width: int = 72) -> str:
    """Times below the bars, in milliseconds."""
    cells = [" "] * (width + 8)
    for part in range(5):
        text = f"{total * 1e3 * part / 4:.0f}"
        place = part * width // 4
        cells[place : place + len(text)] = text
    return "".join(cells).rstrip() + " ms"


def listing(events: list[tuple[str, int, int]], start: int, end: int, lines: int) -> list[str]:
    """What went on in the middle of the load, in the order in which it began."""
    middle = (start + end) // 2
    later = sorted((begin, done, what) for what, begin, done in events if done > middle)
    return [
        f"{(begin - start) / 1e6:8.1f} to {(done - start) / 1e6:8.1f} ms  {what}"
        for begin, done, what in later[:lines]
    ]


def chrome_trace(events: list[tuple[str, int, int]]) -> str:
    """For a browser's tracing page: one track for each kind of work."""
    tracks = {"reading": 1, "copying": 2, "consuming": 3}
    return json.dumps(
        {
            "traceEvents": [
                {
                    "name": what,
                    "ph": "X",
                    "pid": 1,
                    "tid": tracks[what],
                    "ts": begin / 1e3,
                    "dur": (end - begin) / 1e3,
                }
                for what, begin, end in events
            ]
        }
    )


def run(driver: Path, tensors: int, tensor_bytes: int, rate: int) -> dict[str, Any]:
    from runai_model_streamer import SafetensorsStreamer

    standin = standin_driver.install(driver)
    standin.link(rate)
    wait = tensor_bytes / rate  # as long as the link needs for a tensor
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        specs = [TensorSpec(f"t{i:03}", "U8", (tensor_bytes,)) for i in range(tensors)]
        write_shard(path, specs, [1])
        content = path.read_bytes()[-tensors * tensor_bytes :]
        with path.open("rb") as file:  # cold, so that reading takes its time, too
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        trace = Path(directory) / "trace.json"
        os.environ["RUNAI_STREAMER_CUDA_TRACE"] = str(trace)
        # A window that holds some of the tensors, so that the consumer's pace matters.
        os.environ["RUNAI_STREAMER_CUDA_MEMORY_LIMIT"] = str(8 * tensor_bytes)
        os.environ["RUNAI_STREAMER_CHUNK_BYTESIZE"] = str(MIB)
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = "2"
        consumed: Spans = []
        equal = True
        with SafetensorsStreamer() as streamer:
            start = time.monotonic_ns()
            streamer.stream_file(str(path), device="cuda:0")
            for name, tensor in streamer.get_tensors():
                begin = time.monotonic_ns()
                place = int(name[1:]) * tensor_bytes
                expected = torch.frombuffer(
                    bytearray(content[place : place + tensor_bytes]), dtype=torch.uint8
                )
                equal &= bool(torch.equal(tensor, expected))
                rest = wait - (time.monotonic_ns() - begin) / 1e9
                time.sleep(max(0.0, rest))
                consumed.append((begin, time.monotonic_ns()))
                del tensor
            end = time.monotonic_ns()
        events = json.loads(trace.read_text())["traceEvents"]
    read = [
        (int(e["ts"] * 1e3), int((e["ts"] + e["dur"]) * 1e3)) for e in events if e["name"] == "read"
    ]
    copied = [(begin, end) for begin, end, _ in standin.copies()]
    everything = [
        *(("reading", *span) for span in read),
        *(("copying", *span) for span in copied),
        *(("consuming", *span) for span in consumed),
    ]
    return {
        "trace": chrome_trace(everything),
        "listing": listing(everything, start, end, 12),
        "bytes": tensors * tensor_bytes,
        "bytes_equal": equal,
        "seconds": (end - start) / 1e9,
        "read_seconds": seconds(read),
        "copy_seconds": seconds(copied),
        "consume_seconds": seconds(consumed),
        "read_while_copying": seconds(common(read, copied)) / seconds(read),
        "consume_while_copying": seconds(common(consumed, copied)) / seconds(copied),
        "pinned_peak": standin.counts().pinned_peak,
        "violations": standin.counts().violations,
        "timeline": {
            "reading": bar(read, start, end),
            "copying": bar(copied, start, end),
            "consuming": bar(consumed, start, end),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__)
    parser.add_argument("--driver", type=Path, help="the stand-in; without it is compiled")
    parser.add_argument("--tensors", type=int, default=24)
    parser.add_argument("--mib", type=int, default=4, help="of one tensor")
    parser.add_argument("--rate", type=int, default=300, help="of the link, MiB/s")
    parser.add_argument("--trace", type=Path, help="write what began and ended when, for a browser")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        driver = options.driver
        if driver is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            driver = standin_driver.build(Path(directory))
        result = run(driver, options.tensors, options.mib * MIB, options.rate * MIB)
    total = result["seconds"]
    print("In the middle of the load:", *result.pop("listing"), sep="\n  ")
    trace = result.pop("trace")
    if options.trace:
        options.trace.write_text(trace)
    print(f"{result['bytes'] / MIB:.0f} MiB in {total:.3f} s; # at work, - for less than half")
    for what, line in result["timeline"].items():
        print(f"{what:>10} |{line}|")
    print(" " * 12 + axis(total))
    one_by_one = result["read_seconds"] + result["copy_seconds"] + result["consume_seconds"]
    print(
        f"reading {result['read_seconds']:.3f} s, copying {result['copy_seconds']:.3f} s, "
        f"consuming {result['consume_seconds']:.3f} s: one after the other {one_by_one:.3f} s\n"
        f"of the reading {result['read_while_copying']:.0%} was beside a copy, of the copying "
        f"{result['consume_while_copying']:.0%} beside the consumer"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0 if result["bytes_equal"] and not result["violations"] else 1


if __name__ == "__main__":
    sys.exit(main())
