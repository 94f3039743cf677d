"""model-streamer bench"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from runai_model_streamer._cli.command import (
    Debug,
    Json,
    Where,
    check_target,
    command,
    not_empty,
)
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.progress import bar
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools import pictures, rates
from runai_model_streamer._tools.rates import Bench, Rate
from runai_model_streamer._units import size_text

EXAMPLES = (
    "bench /models/llama",
    "bench s3://bucket/llama --device cuda:0",
    "bench s3://bucket/llama --seconds 10 --plot rates.png",
)
_WIDTH = 40  # characters of the longest bar


@command
def bench(
    path: Where,
    device: Annotated[str, typer.Option(help="Where the tensors go, e.g. cuda:0.")] = "cpu",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="The longest time of each other way of reading.")
    ] = 3.0,
    picture: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FILE", help="Write a picture (.png, .svg).", callback=not_empty
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the rate of a load, and what bounds it.

    The tensors are dropped. Then the first bytes are read in other ways: by a raw reader, and
    with fixed concurrencies.
    """
    output = Output(as_json)
    if picture is not None:
        pictures.check_plotting(picture)
        check_target(picture)
    with bar("loading", not as_json) as progress:
        found = rates.measure(path, device, seconds=seconds, progress=progress)
    if picture is not None:
        pictures.plot(found, picture)
    _print_document(output, found, picture)
    output.line(
        f"{size_text(found.load.bytes)} in {found.load.seconds:.2f} s: "
        f"{size_text(found.load.rate)}/s to {found.device}",
        "ok",
    )
    for text in found.verdict:
        output.line(text)
    output.line()
    output.table(
        ("WAY OF READING", "RATE", "BYTES", "SECONDS"),
        [_row(one) for one in (found.load, *found.others)],
        right=("RATE", "BYTES", "SECONDS"),
    )
    histogram = found.histogram()
    if histogram:
        output.line()
        output.line(
            f"{len(found.reads)} reads: half within {found.percentile(0.5):.1f} ms, "
            f"99 % within {found.percentile(0.99):.1f} ms"
        )
        most = max(count for _, count in histogram)
        output.table(
            ("MS", "READS", ""),
            [(name, str(count), "#" * round(_WIDTH * count / most)) for name, count in histogram],
            right=("MS", "READS"),
        )


def _row(one: Rate) -> tuple[str, str, str, str]:
    rate = f"{size_text(one.rate)}/s"
    return one.name, rate, size_text(one.bytes), f"{one.seconds:.2f}"


def _way(one: Rate) -> dict[str, object]:
    return {
        "name": one.name,
        "bytes": one.bytes,
        "seconds": round(one.seconds, 4),
        "bytes_per_second": round(one.rate),
    }


def _print_document(output: Output, found: Bench, picture: str | None) -> None:
    output.document(
        "bench",
        path=shown_path(found.path),
        device=found.device,
        files=found.files,
        cached=found.cached,
        load=_way(found.load),
        others=[_way(one) for one in found.others],
        stats=dataclasses.asdict(found.stats),
        verdict=found.verdict,
        reads={
            "count": len(found.reads),
            "p50_ms": round(found.percentile(0.5), 3),
            "p99_ms": round(found.percentile(0.99), 3),
            "histogram": [{"ms": name, "reads": count} for name, count in found.histogram()],
        },
        plot=picture,
    )
