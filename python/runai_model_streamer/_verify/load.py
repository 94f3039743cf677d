"""Verification of what a load reads, on its way to the consumer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from runai_model_streamer._errors import shown_path
from runai_model_streamer._session import Run
from runai_model_streamer._verify.manifest import Manifest, check


@dataclasses.dataclass
class _File:
    path: str
    expected: str
    hash: Any
    ranges: int
    """That are still to come."""


class LoadCheck:
    """Compares the SHA-256 of each file of a load that is read as a whole with a manifest.

    Ranges are hashed in the order of the file, before any of their tensors is yielded, so that the
    last tensor of a file comes only after its digest was right, and nothing that the consumer does
    to its tensors counts. One thread at a time; hashing does not hold the GIL.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.verified: list[str] = []
        self.unverified: list[str] = []
        """Files that are not read as a whole."""
        self._files: dict[int, _File] = {}

    def expect(self, request_id: int, path: str, head: bytes, ranges: int, whole: bool) -> None:
        """The request `request_id` reads the file at `path`, all of whose bytes are `head` and,
        if `whole`, its `ranges` ranges in their order.

        Raises a StreamerError if the manifest does not list the file, or the file is complete with
        `head` and is another one.
        """
        if not whole:
            self.unverified.append(path)
            return
        expected = self.manifest.digest_of(path)
        file = _File(path, expected, hashlib.sha256(head), ranges)
        self._files[request_id] = file
        if ranges == 0:
            self._finish(file)

    def add(self, run: Run, names: Sequence[str], into: Mapping[str, torch.Tensor]) -> None:
        """The next ranges of a request; `names` are those of their tensors.

        Raises StreamerDigestError after the last one, if the file is not what the manifest says.
        """
        file = self._files.get(run.request_id)
        if file is None:
            return
        for index in range(run.count):
            if run.sizes[run.first + index]:
                file.hash.update(_bytes_of(run, index, names[index], into))
        file.ranges -= run.count
        if file.ranges == 0:
            self._finish(file)

    def _finish(self, file: _File) -> None:
        check(file.path, file.expected, file.hash.hexdigest(), self.manifest.origin)
        self.verified.append(file.path)

    def note(self) -> str:
        """For stats(): what was verified by now."""
        text = f"{len(self.verified)} files have the SHA-256 that {self.manifest.origin} says"
        if self.unverified:
            shown = ", ".join(shown_path(path) for path in self.unverified[:5])
            more = len(self.unverified) - 5
            text += f"; not verified, as they are not read as a whole: {shown}"
            text += f" and {more} more" if more > 0 else ""
        return text


def _bytes_of(run: Run, index: int, name: str, into: Mapping[str, torch.Tensor]) -> Any:
    data = run.data
    if data is None:  # the engine has written it to the destination of the caller
        return _bytes_of_tensor(into[name])
    if isinstance(data, list):
        return _bytes_of_tensor(data[index])
    start = run.positions[index]
    return memoryview(data)[start : start + run.sizes[run.first + index]]


def _bytes_of_tensor(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
