"""python -m runai_model_streamer: the commands of `model-streamer`."""

from __future__ import annotations

import sys

try:
    from runai_model_streamer._cli.app import main
except ModuleNotFoundError as error:
    _missing = error.name or ""
    if _missing.partition(".")[0] not in ("typer", "rich", "click"):
        raise

    def main() -> int:
        """Says what is missing."""
        print(
            f"model-streamer: {_missing} is not installed: the commands need typer and rich. "
            "Install them: pip install typer rich",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
