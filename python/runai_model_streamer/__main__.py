"""python -m runai_model_streamer: the commands of `model-streamer`."""

from __future__ import annotations

import sys

from runai_model_streamer._cli.process import (
    FINE,
    INTERRUPTED,
    STORAGE,
    USAGE,
    drop_output,
    open_outputs,
)

open_outputs()
try:
    from runai_model_streamer._cli.app import run
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
except ModuleNotFoundError as error:
    _missing = error.name or ""
    if _missing.partition(".")[0] not in ("typer", "rich", "click"):
        raise

    def run() -> None:
        """Says what is missing."""
        print(
            f"model-streamer: {_missing} is not installed: the commands need typer and rich. "
            "Install them: pip install typer rich",
            file=sys.stderr,
        )
        sys.exit(USAGE)


def main() -> int:
    """The exit code. What ends the program outside a command shows no traceback either."""
    try:
        try:
            run()
        finally:
            sys.stdout.flush()  # a failure at the end of the interpreter has code 120
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
    except OSError as error:
        drop_output()
        print(f"model-streamer: {error.strerror or error}", file=sys.stderr)
        return STORAGE
    return FINE


if __name__ == "__main__":
    sys.exit(main())
