"""Output of the commands: tables and lines for people, or one JSON document for programs.

If standard output is no terminal, or NO_COLOR is set, text is plain: no colours, no boxes, and
nothing is cut.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runai_model_streamer._cli.process import FINDING, STORAGE, USAGE
from runai_model_streamer._errors import FIELDS, StreamerError

# A name that was made to look like output would add lines to it, or control the terminal.
_SPACES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
    if code not in _SPACES
}
_STYLES = {"ok": "green", "fail": "red", "warn": "yellow", "skip": "dim"}


def is_plain(stream: Any = None) -> bool:
    """True if the text of `stream` (standard output) is not for people."""
    stream = sys.stdout if stream is None else stream
    return bool(os.environ.get("NO_COLOR")) or not stream.isatty()


class Output:
    """Of one command. With `as_json`, only document() prints to standard output."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.plain = is_plain()

    def document(self, name: str, **fields: Any) -> None:
        """The result as JSON, if that was asked for. `name` and its version are in `schema`."""
        if self.as_json:
            _print_json({"schema": f"model-streamer.{name}/1", **fields})

    def line(self, text: str = "", style: str = "") -> None:
        """One line. `style` is ok, fail, warn or skip: its colour on a terminal."""
        if self.as_json:
            return
        text = _printable(text)
        if self.plain:
            print(text)
        else:
            Console().print(Text(text, style=_STYLES.get(style, "")))

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
    ) -> None:
        """Rows below titles; columns named in `right` hold numbers."""
        if self.as_json or not rows:
            return
        rows = [[_printable(cell) for cell in row] for row in rows]
        if not self.plain:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                side = "right" if column in right else "left"
                table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
            for row in rows:
                table.add_row(*map(Text, row))
            Console().print(table)
            return
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in [columns, *rows]:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, cell, width in zip(columns, row, widths, strict=True)
            ]
            print("  ".join(cells).rstrip())


def _printable(text: str) -> str:
    """`text` on one line, without control characters."""
    return text.translate(_SPACES | _CONTROLS)


def _print_json(document: dict[str, Any]) -> None:
    # JSON has the same escapes; its own line breaks are not those of a text.
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_plain_value)
    print(text.translate(_CONTROLS), flush=True)


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def print_error(error: BaseException, as_json: bool) -> None:
    """The error of a command: one line on standard error, or a document on standard output."""
    if as_json:
        fields: dict[str, Any] = {"type": type(error).__name__, "text": str(error)}
        if isinstance(error, StreamerError):
            fields["code"] = error.code
            fields |= {name: getattr(error, name) for name in FIELDS}
        try:
            _print_json({"schema": "model-streamer.error/1", "error": fields})
            return
        except OSError:  # nothing can be written there, which may be the error itself
            pass
    text = _printable(f"model-streamer: {_text_of(error)}")
    if is_plain(sys.stderr):
        print(text, file=sys.stderr)
    else:
        Console(stderr=True).print(Text(text, style="red"))


def _text_of(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, StreamerError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror} (errno {error.errno})"
    return str(error) or type(error).__name__


def status_of(error: BaseException) -> int:
    """The exit code of a command that ended by `error`."""
    if isinstance(error, StreamerError):
        if error.code in ("invalid", "package"):
            return USAGE
        if error.code in ("format", "digest", "short_read"):
            return FINDING
        return STORAGE
    if isinstance(error, NotImplementedError | ValueError | TypeError):
        return USAGE
    return STORAGE
