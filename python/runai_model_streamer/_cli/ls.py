"""model-streamer ls"""

from __future__ import annotations

from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, Where, command
from runai_model_streamer._cli.output import Output
from runai_model_streamer._errors import shown_path
from runai_model_streamer._paths import is_url
from runai_model_streamer._tools.inventory import Entry, entries_of
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
    sizes = [_size_of(entry) for entry in found]
    total = sum(size or 0 for size in sizes)
    output.document(
        "ls",
        path=shown_path(path),
        count=len(found),
        bytes=total,
        objects=[
            {"path": shown_path(one.path), "size": size, "version": one.version}
            for one, size in zip(found, sizes, strict=True)
        ],
    )
    rows = [
        ("?" if size is None else str(size), one.version, shown_path(one.path))
        for one, size in zip(found, sizes, strict=True)
    ]
    output.table(("SIZE", "VERSION", "PATH"), rows, right=("SIZE",))
    unknown = sizes.count(None)
    known = f", {size_text(total)}" if unknown < len(found) or not found else ""
    more = f"{', ' + str(unknown) if known else ''} of unknown size" if unknown else ""
    output.line(f"{amount_text(len(found), 'file')}{known}{more}")
    if not found and not recursive and entries_of(path, recursive=True):
        output.line("Everything is further down: use -r.")


def _size_of(entry: Entry) -> int | None:
    """None: the list does not tell it. Those of web servers in HTML do not."""
    told = entry.size > 0 or entry.version or not is_url(entry.path)
    return entry.size if told else None
