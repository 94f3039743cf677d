"""The memory that pieces are read into, and that tensors are copied out of.

Ranks of one node map each other's staging memory: each has the pieces that it reads, and takes the
others' from where these were read to. Nothing is sent. Everywhere else each rank has memory for all
the pieces that it wants, and a transport moves them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._distributed.plan import Piece, Plan, layout, owned_layout


@dataclasses.dataclass(frozen=True)
class Placed:
    """A piece that this rank wants, and where it stands."""

    piece: Piece
    offset: int
    memory: torch.Tensor

    @property
    def data(self) -> torch.Tensor:
        return self.memory[self.offset : self.offset + self.piece.size]


class Staging(Protocol):
    """Buffers, used in turn by the rounds of one plan."""

    buffers: int
    buffer_bytes: int
    """Of each buffer, in this rank's own memory."""
    shared: bool
    """True if other ranks take pieces straight out of this rank's memory."""

    def place(self, number: int) -> list[Placed]:
        """The pieces of round `number` that this rank wants."""


class PrivateStaging:
    """All pieces that this rank wants, in memory of its own."""

    buffers = 2
    shared = False

    def __init__(self, plan: Plan, member: int, memory: HostMemory) -> None:
        self._plan, self._member = plan, member
        rounds = range(plan.rounds)
        self.buffer_bytes = max((layout(plan.pieces(n), member)[1] for n in rounds), default=0)
        self._memory = [
            memory.claim(self.buffer_bytes) for _ in range(min(self.buffers, plan.rounds))
        ]

    def place(self, number: int) -> list[Placed]:
        memory = self._memory[number % self.buffers]
        placed, _ = layout(self._plan.pieces(number), self._member)
        return [Placed(piece, offset, memory) for piece, offset in placed]


class SharedMemory:
    """Memory without a name that other processes of this node can map while it is offered.

    It goes with the last process that has it mapped, whatever way that ends.
    """

    def __init__(self, size: int) -> None:
        descriptor = os.memfd_create("streamer-staging", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            # Memory that is short is an error here instead of a signal later.
            os.posix_fallocate(descriptor, 0, size)
            # A process that maps it needs not fear that it shrinks.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self.tensor = _mapped(descriptor, size)
        except BaseException:
            self._file.close()
            raise
        status = os.fstat(descriptor)
        self.address = [os.getpid(), descriptor, status.st_dev, status.st_ino, size]

    def withdraw(self) -> None:
        """Ends the offer. What is mapped stays."""
        self._file.close()


def attach(address: Sequence[int]) -> torch.Tensor:
    """The memory that another process of this node offers. Raises OSError if it cannot open it."""
    pid, descriptor, device, inode, size = address
    path = f"/proc/{pid}/fd/{descriptor}"
    status = os.stat(path)
    if (status.st_dev, status.st_ino) != (device, inode):
        raise FileNotFoundError(path)
    with open(path, "r+b", buffering=0) as file:
        return _mapped(file.fileno(), size)


def _mapped(descriptor: int, size: int) -> torch.Tensor:
    # Its pages exist: found at once instead of one by one.
    memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _owned_bytes(plan: Plan, members: int) -> list[int]:
    """Bytes of one buffer of each member."""
    most = [0] * members
    for number in range(plan.rounds):
        for piece, offset in owned_layout(plan.pieces(number)):
            most[piece.owner] = max(most[piece.owner], offset + piece.slot)
    return most


class SharedStaging:
    """The pieces that this rank reads, if the ranks of its node can see them.

    `offers` are the addresses of the memory of each member, this one's included.
    """

    buffers = 3
    shared = True

    def __init__(
        self, plan: Plan, member: int, memory: SharedMemory, offers: Sequence[Any]
    ) -> None:
        self._plan, self._member = plan, member
        self._bytes = _owned_bytes(plan, len(offers))
        self.buffer_bytes = self._bytes[member]
        self._memory = [
            memory.tensor if other == member else attach(offer)
            for other, offer in enumerate(offers)
        ]

    @classmethod
    def offer(cls, plan: Plan, member: int, members: int) -> SharedMemory | None:
        """This member's memory; None if the system has none to share."""
        size = cls.buffers * _owned_bytes(plan, members)[member]
        try:
            return SharedMemory(max(size, mmap.PAGESIZE))
        except (AttributeError, OSError):
            return None

    def place(self, number: int) -> list[Placed]:
        buffer = number % self.buffers
        return [
            Placed(
                piece,
                buffer * self._bytes[piece.owner] + offset,
                self._memory[piece.owner],
            )
            for piece, offset in owned_layout(self._plan.pieces(number))
            if self._member in piece.receivers
        ]
