"""Writes docs/reference/environment.md: `python -m scripts.environment_doc [--check]`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from runai_model_streamer import _native_api as native

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "environment.md"

HEAD = """# Environment variables

<!-- Written by `make docs` from cpp/src/base/settings_table.cc. Do not edit. -->

The library reads the variables when a stream, a listing or a download starts, never at import. An
empty variable counts as unset. A value that is not accepted is an error. The error names the
variable, the value and the accepted values. Secrets are never logged.
"""


def page() -> str:
    parts = [HEAD]
    rows = native.settings_table()
    for group, settings in groupby(rows, key=lambda row: row["group"]):
        parts.append(f"\n## {group}\n")
        if group == "Ignored":
            parts.append("\nAccepted for compatibility with the original. They have no effect.\n")
            parts.append("".join(f"\n- `{row['name']}`" for row in settings) + "\n")
            continue
        parts.append("\n| Variable | Default | Accepted | |\n|---|---|---|---|\n")
        for row in settings:
            summary = row["summary"]
            if row["former_name"]:
                summary += f" Deprecated name: `{row['former_name']}`."
            cells = [f"`{row['name']}`", row["default"], row["accepted"], summary]
            parts.append("| " + " | ".join(_cell(text) for text in cells) + " |\n")
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", ", ") if "`" not in text else text


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != page():
            sys.exit("docs/reference/environment.md is not what the settings say: make docs")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
