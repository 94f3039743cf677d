"""model-streamer manifest"""

from __future__ import annotations

import enum
import os
import sys
import tempfile
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
from runai_model_streamer._tools.verification import digests_below
from runai_model_streamer._units import amount_text
from runai_model_streamer._verify.manifest import format_statement, format_sums

EXAMPLES = (
    "manifest /models/llama -o /models/llama/SHA256SUMS",
    "manifest s3://bucket/llama --allow '*.safetensors'",
    "manifest /models/llama --format model-signing -o statement.json",
)


class Form(str, enum.Enum):
    """Of a manifest."""

    SHA256SUMS = "sha256sums"
    MODEL_SIGNING = "model-signing"


@command
def manifest(
    path: Where,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="The file to write; without: the output.", callback=not_empty
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option("--format", help="sha256sums, or the unsigned statement of model-signing."),
    ] = Form.SHA256SUMS,
    allow: Annotated[list[str] | None, typer.Option(help="Only names of this pattern.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="No names of this pattern.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the SHA-256 of every file, for `verify`."""
    output = Output(as_json)
    if out is not None:
        check_target(out)
    with bar("hashing", not as_json) as progress:
        digests = digests_below(path, progress=progress, allow=allow, ignore=ignore, but=out)
    name = path.rstrip("/").rpartition("/")[2]
    if form is Form.SHA256SUMS:
        text = format_sums(digests)
    else:
        text = format_statement(digests, name)
    if out is not None:
        _write(out, text)
        output.line(f"{out}: {amount_text(len(digests), 'file')}")
    elif not as_json:
        sys.stdout.write(text)
    output.document("manifest", path=shown_path(path), out=out, format=form.value, files=digests)


def _write(path: str, text: str) -> None:
    """Replaces the file at `path`, or leaves it as it is. What is no file, as /dev/stdout, is
    written to."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
        else:
            _replace(os.path.realpath(path), text)
    except OSError as error:  # which may name the other file
        raise OSError(error.errno, error.strerror, path) from None


def _replace(path: str, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w",
        dir=os.path.dirname(path),
        prefix=".manifest-",
        delete=False,
        encoding="utf-8",
        errors="surrogateescape",
    ) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
