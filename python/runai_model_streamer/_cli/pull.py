"""model-streamer pull"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, command, not_empty
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.progress import bar
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerNotFoundError,
    shown_path,
)
from runai_model_streamer._paths import is_remote, to_text
from runai_model_streamer._storage.pull import pull_objects
from runai_model_streamer._units import amount_text

EXAMPLES = (
    "pull s3://bucket/llama /models/llama",
    "pull hf://org/model /models/model --allow '*.safetensors' --allow '*.json'",
    "pull gs://bucket/llama /models/llama --ignore '*.bin'",
)


@command
def pull(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A directory of objects.", callback=not_empty)
    ],
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Where the files go.", callback=not_empty)
    ],
    allow: Annotated[list[str] | None, typer.Option(help="Only keys of this pattern.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="No keys of this pattern.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy objects to files. A pull that was ended continues where it was.

    Patterns are those of fnmatch, over the whole key of an object; * crosses /. Each file is
    complete or absent, and of the version that was listed.
    """
    output = Output(as_json)
    source = to_text(path)
    if not is_remote(source):
        raise RunaiStreamerInvalidInputException(
            f"{source}: it is a local path: use it as it is, or copy it with cp"
        )
    began = time.monotonic()
    copied = [0]
    with bar("copying", not as_json) as shown:

        def count(done: int, total: int) -> None:
            copied[0] = done
            if shown is not None:
                shown(done, total)

        files, snapshot = pull_objects(
            source, to_text(directory), allow or None, ignore or None, progress=count
        )
    if files == 0:
        raise StreamerNotFoundError(
            f"{source}: no object below it matches. Check the path and the patterns",
            code="not_found",
            path=source,
        )
    seconds = time.monotonic() - began
    output.document(
        "pull",
        path=shown_path(snapshot),
        directory=directory,
        files=files,
        bytes=copied[0],
        seconds=round(seconds, 3),
    )
    output.line(f"{amount_text(files, 'file')} in {directory}, {seconds:.1f} s", "ok")
