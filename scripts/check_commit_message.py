#!/usr/bin/env python3
"""Checks the message of a commit: python3 scripts/check_commit_message.py FILE

A subject of at most 72 columns without a full stop, an empty line, and a body that says why, in
lines of at most 72 columns. A line without spaces, such as a URL, may be longer.
"""

from __future__ import annotations

import sys
from pathlib import Path

COLUMNS = 72
_SCISSORS = "# ------------------------ >8 ------------------------"


def problems(message: str) -> list[str]:
    """What is wrong with a message; the comments of git's editor are left out."""
    lines = message.partition(_SCISSORS)[0].splitlines()
    lines = [line.rstrip() for line in lines if not line.startswith("#")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not lines[0]:
        return ["the subject is empty"]
    subject = lines[0]
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return []
    found = []
    if len(subject) > COLUMNS:
        found.append(f"the subject has {len(subject)} columns, {COLUMNS} at most")
    if subject.endswith("."):
        found.append("the subject ends with a full stop")
    if not subject[0].isupper():
        found.append("the subject does not begin with a capital letter")
    if len(lines) > 1 and lines[1]:
        found.append("no empty line follows the subject")
    if not any(lines[2:]):
        found.append("no body says why")
    for number, line in enumerate(lines[1:], 2):
        if len(line) > COLUMNS and " " in line.strip():
            found.append(f"line {number} has {len(line)} columns, {COLUMNS} at most")
    return found


def main() -> int:
    found = problems(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for text in found:
        print(f"commit message: {text}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
