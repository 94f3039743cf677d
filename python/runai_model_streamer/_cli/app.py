"""The program `model-streamer`."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import runai_model_streamer
from runai_model_streamer._cli import bench, diff, doctor, env, inspect, ls, manifest, pull, verify
from runai_model_streamer._cli.command import examples
from runai_model_streamer._cli.output import is_plain

app = typer.Typer(
    name="model-streamer",
    help="Lists, checks, copies and measures models in local files and object storage.",
    epilog="Exit codes: 0 fine, 1 a finding, 2 usage, 3 storage or access.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if is_plain() else "rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"model-streamer {runai_model_streamer.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


for _module in (ls, inspect, diff, pull, verify, manifest, doctor, bench, env):
    _name = _module.__name__.rpartition(".")[2]
    app.command(_name, epilog=examples(*_module.EXAMPLES))(getattr(_module, _name))


def run() -> None:
    """Runs the command that the arguments of the process name. Raises SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="model-streamer")
