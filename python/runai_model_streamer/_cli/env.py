"""model-streamer env"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from typing import Annotated

import typer

import runai_model_streamer
from runai_model_streamer import _installation as installation
from runai_model_streamer._cli.command import Debug, Json, command
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.process import FINDING
from runai_model_streamer._settings import current_settings, unknown_settings

EXAMPLES = ("env", "env --all", "env --json")


@command
def env(
    everything: Annotated[
        bool, typer.Option("--all", help="Show settings that are not set, too.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int | None:
    """Show settings with their values, sources and defaults.

    Also shows names that are no settings."""
    output = Output(as_json)
    settings, unknown = current_settings(), unknown_settings()
    versions = {
        "model-streamer": runai_model_streamer.__version__,
        "location": os.path.dirname(runai_model_streamer.__file__),
        "python": platform.python_version(),
        "torch": _version_of("torch"),
        "platform": f"{platform.machine()} {platform.platform(terse=True)}",
        "executable": sys.executable,
    }
    mixed = installation.problems()
    output.document(
        "env",
        versions=versions,
        installation=mixed,
        settings=[dataclasses.asdict(one) for one in settings],
        unknown=[{"name": name, "nearest": nearest} for name, nearest in unknown],
    )
    for name, value in versions.items():
        output.line(f"{name}: {value}")
    shown = [one for one in settings if everything or one.source != "default"]
    output.line()
    output.table(
        ("SETTING", "VALUE", "SOURCE", "DEFAULT"),
        [(one.name, one.value or "", one.source, one.default) for one in shown],
    )
    if not everything:
        left = len(settings) - len(shown)
        output.line(f"{left} settings have their defaults: --all shows them")
    for text in mixed:
        output.line(f"problem: two implementations are mixed: {text}", "fail")
    if mixed:
        output.line(installation.CURE)
    for one in settings:
        if one.problem:
            output.line(f"problem: {one.problem}", "fail")
    for name, nearest in unknown:
        meant = f": did you mean {nearest}?" if nearest else ""
        output.line(f"problem: {name} is no setting{meant}", "fail")
    return FINDING if mixed or unknown or any(one.problem for one in settings) else None


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
