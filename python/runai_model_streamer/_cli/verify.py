"""model-streamer verify"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from runai_model_streamer._cli.command import Debug, Json, Where, command, not_empty
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.process import FINDING
from runai_model_streamer._cli.progress import bar
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools.verification import OK, UNLISTED, verify_files

EXAMPLES = (
    "verify /models/llama",
    "verify s3://bucket/llama --manifest SHA256SUMS",
    "verify /models/llama --manifest model.sig",
    "verify hf://org/model",
)


@command
def verify(
    path: Where,
    manifest: Annotated[
        str | None,
        typer.Option(
            help="SHA256SUMS or a manifest of model-signing, local or remote. Without: the one "
            "beside the files, or what the hub tells.",
            callback=not_empty,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int | None:
    """Check every file: its structure, and its SHA-256.

    The SHA-256 is compared with a manifest. The signature of a manifest of model-signing is not
    checked: model_signing does that.
    """
    output = Output(as_json)
    with bar("verifying", not as_json) as progress:
        found = verify_files(path, manifest, progress=progress)
    output.document(
        "verify",
        path=shown_path(found.path),
        manifest=found.manifest,
        good=found.good,
        files=[dataclasses.asdict(one) for one in found.verdicts],
    )
    for one in found.verdicts:
        style = "ok" if one.result == OK else "warn" if one.result == UNLISTED else "fail"
        output.line(f"{one.result}: {one.name}{': ' + one.text if one.text else ''}", style)
        if one.expected and one.sha256 != one.expected and one.sha256:
            output.line(f"  is {one.sha256}, expected {one.expected}")
    compared = sum(bool(one.expected and one.sha256) for one in found.verdicts)
    if found.manifest is None:
        output.line("There is no manifest: only the structure was checked.", "warn")
    else:
        output.line(f"{compared} of {len(found.verdicts)} compared with {found.manifest}")
    return None if found.good else FINDING
