"""model-streamer inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, Where, command
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.process import FINDING
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools.inspection import Amount, Inspection, inspect_checkpoint
from runai_model_streamer._units import amount_text, count_text, size_text

EXAMPLES = (
    "inspect /models/llama",
    "inspect --tensors s3://bucket/llama",
    "inspect --json hf://org/model",
)


@command
def inspect(
    path: Where,
    tensors: Annotated[bool, typer.Option(help="List every tensor.")] = False,
    layers: Annotated[bool, typer.Option(help="List the bytes of each layer.")] = False,
    variant: Annotated[str | None, typer.Option(help="Of the files, e.g. fp16.")] = None,
    compare: Annotated[
        bool, typer.Option(help="Read and compare the bytes of tensors of equal names.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int | None:
    """Show what a checkpoint consists of, and what is wrong with it. Reads headers only."""
    output = Output(as_json)
    found = inspect_checkpoint(path, variant=variant, compare_duplicates=compare)
    serious = any(problem.serious for problem in found.problems)
    _print_document(output, found)
    total = found.total()
    output.line(
        f"{amount_text(len(found.shards), 'file')}, {size_text(found.bytes)}; "
        f"{amount_text(total.tensors, 'tensor')}, "
        f"{count_text(total.parameters)} parameters"
    )
    output.line(f"index: {'none' if found.index is None else 'yes'}")
    _print_amounts(output, "DTYPE", found.by_dtype())
    if layers:
        _print_amounts(output, "LAYER", found.by_layer())
    if tensors:
        output.table(
            ("NAME", "DTYPE", "SHAPE", "BYTES", "FILE"),
            [
                (
                    tensor.name,
                    tensor.dtype,
                    str(list(tensor.shape)),
                    str(tensor.get_bytesize()),
                    shown_path(shard.path),
                )
                for shard in found.shards
                for tensor in shard.tensors
            ],
            right=("BYTES",),
        )
    metadata = _metadata(found)
    output.table(("METADATA", "VALUE"), [(k, v[:200]) for k, v in metadata.items()])
    for problem in found.problems:
        mark = "problem" if problem.serious else "note"
        output.line(
            f"{mark}: {_located(problem.path, problem.text)}", "fail" if problem.serious else "warn"
        )
    if not found.problems:
        output.line("no problems found", "ok")
    return FINDING if serious else None


def _located(path: str, text: str) -> str:
    shown = shown_path(path)
    return text if not path or shown in text else f"{shown}: {text}"


def _metadata(found: Inspection) -> dict[str, str]:
    merged: dict[str, str] = {}
    for shard in found.shards:
        merged.update(shard.metadata)
    return merged


def _print_amounts(output: Output, title: str, amounts: dict[str, Amount]) -> None:
    output.table(
        (title, "TENSORS", "PARAMETERS", "BYTES"),
        [
            (name, str(one.tensors), count_text(one.parameters), size_text(one.bytes))
            for name, one in amounts.items()
        ],
        right=("TENSORS", "PARAMETERS", "BYTES"),
    )


def _amounts(amounts: dict[str, Amount]) -> dict[str, dict[str, int]]:
    return {
        name: {"tensors": one.tensors, "parameters": one.parameters, "bytes": one.bytes}
        for name, one in amounts.items()
    }


def _print_document(output: Output, found: Inspection) -> None:
    total = found.total()
    output.document(
        "inspect",
        path=shown_path(found.path),
        files=[
            {
                "path": shown_path(shard.path),
                "size": shard.size,
                "version": shard.version,
                "metadata": dict(shard.metadata),
                "tensors": [
                    {
                        "name": tensor.name,
                        "dtype": tensor.dtype,
                        "shape": list(tensor.shape),
                        "offset": shard.data_start + tensor.start,
                        "bytes": tensor.get_bytesize(),
                    }
                    for tensor in shard.tensors
                ],
            }
            for shard in found.shards
        ],
        indexed=found.index is not None,
        bytes=found.bytes,
        tensors=total.tensors,
        parameters=total.parameters,
        by_dtype=_amounts(found.by_dtype()),
        by_layer=_amounts(found.by_layer()),
        problems=[
            {
                "kind": problem.kind,
                "serious": problem.serious,
                "path": shown_path(problem.path),
                "text": problem.text,
            }
            for problem in found.problems
        ],
    )
