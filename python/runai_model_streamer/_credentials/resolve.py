"""The types of a provider of credentials."""

from __future__ import annotations

from collections.abc import Callable

Found = tuple[dict[str, str], int, str] | None
"""Values, when they expire (seconds since the epoch, 0: never), and the identity for messages."""
Resolve = Callable[[str, bool], Found]
