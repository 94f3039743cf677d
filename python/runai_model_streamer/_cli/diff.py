"""model-streamer diff"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, command, not_empty
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.process import FINDING
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools.comparison import compare_checkpoints
from runai_model_streamer._units import amount_text

EXAMPLES = (
    "diff /models/llama s3://bucket/llama",
    "diff --headers-only hf://org/model hf://org/model@refs/pr/1",
)


@command
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A checkpoint.", callback=not_empty)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.", callback=not_empty)],
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not read and compare the bytes.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int | None:
    """Show tensors that were added or removed, or that changed.

    They change in dtype, shape or bytes.

    Exit code 1 if there are differences.
    """
    output = Output(as_json)
    changes, same = compare_checkpoints(before, after, bytes_too=not headers_only)
    output.document(
        "diff",
        before=shown_path(before),
        after=shown_path(after),
        bytes_compared=not headers_only,
        same=same,
        changes=[dataclasses.asdict(change) for change in changes],
    )
    rows = [(change.kind, change.name, change.before, change.after) for change in changes]
    output.table(("CHANGE", "TENSOR", "A", "B"), rows)
    how = "by dtype and shape" if headers_only else "byte by byte"
    output.line(
        f"{amount_text(len(changes), 'difference')}; the same {how}: {amount_text(same, 'tensor')}"
    )
    return FINDING if changes else None
