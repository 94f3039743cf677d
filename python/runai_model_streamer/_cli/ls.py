"""model-streamer ls"""

from __future__ import annotations

from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, Where, command
from runai_model_streamer._cli.output import Output
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools.inventory import entries_of
from runai_model_streamer._units import amount_text, size_text

EXAMPLES = ("ls /models/llama", "ls -r s3://bucket/llama", "ls --json hf://org/model")


@command
def ls(
    path: Where,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="List what is further down, too.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List files or objects with their sizes and versions."""
    output = Output(as_json)
    found = entries_of(path, recursive)
    total = sum(entry.size for entry in found)
    output.document(
        "ls",
        path=shown_path(path),
        count=len(found),
        bytes=total,
        objects=[
            {"path": shown_path(one.path), "size": one.size, "version": one.version}
            for one in found
        ],
    )
    rows = [(str(one.size), one.version, shown_path(one.path)) for one in found]
    output.table(("SIZE", "VERSION", "PATH"), rows, right=("SIZE",))
    output.line(f"{amount_text(len(found), 'file')}, {size_text(total)}")
    if not found and not recursive and entries_of(path, recursive=True):
        output.line("Everything is further down: use -r.")
