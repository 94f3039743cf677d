"""The options, errors and exit codes that all commands share."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast

import typer

from runai_model_streamer._cli.output import print_error, status_of
from runai_model_streamer._cli.process import INTERRUPTED, drop_output

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Log everything to standard error; show tracebacks.")
]


def not_empty(value: str | None) -> str | None:
    """Of a path: the value of a variable that is not set is none."""
    if value == "":
        raise typer.BadParameter("it is empty")
    return value


Where = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A file or directory: local, s3://, gs://, az://, https:// or hf://.",
        callback=not_empty,
    ),
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def command(function: _Command) -> _Command:
    """A command: what it raises becomes a line and an exit code. It returns its exit code, or None
    for 0. Its parameters include `as_json` and `debug`."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        debug, as_json = options.get("debug", False), options.get("as_json", False)
        if debug:
            os.environ.setdefault("RUNAI_STREAMER_LOG_LEVEL", "debug")
            os.environ["RUNAI_STREAMER_LOG_TO_STDERR"] = "1"
        try:
            code = function(*arguments, **options)
            sys.stdout.flush()  # a failure at the end of the interpreter has code 120
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of the output has enough
            drop_output()
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            print_error(error, as_json)
            try:
                sys.stdout.flush()
            except OSError:
                drop_output()
            raise typer.Exit(status_of(error)) from None
        if code:
            raise typer.Exit(code)

    return cast("_Command", run)


def check_target(path: str) -> None:
    """Raises OSError if no file can be written at `path`: better before hours of reading."""
    directory = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        code = errno.EISDIR
    elif not os.path.exists(path) and not os.path.isdir(directory):
        code = errno.ENOENT
    elif not os.access(path if os.path.exists(path) else directory, os.W_OK):
        code = errno.EACCES
    else:
        return
    raise OSError(code, os.strerror(code), path)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  model-streamer {line}" for line in lines)
