"""What an adapter module offers. Not imported: a description.

`options` are the job's: strings, numbers and booleans that the adapter understands (device,
distributed, ...). An adapter uses its loader as the loader's documentation recommends for speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch


class Adapter(Protocol):
    MODULE: str  # what a program imports

    def version(self) -> str: ...

    def iterate(
        self, files: list[str], options: dict[str, Any]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields every tensor once."""
        ...

    def into(
        self, files: list[str], params: dict[str, torch.Tensor], options: dict[str, Any]
    ) -> None:
        """Fills `params`. Optional: absent if the loader's tensors can only be copied."""
        ...

    def stats(self) -> dict[str, Any]:
        """What the loader tells about its last load. Optional."""
        ...
