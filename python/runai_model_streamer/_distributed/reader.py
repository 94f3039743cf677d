"""Reading a rank's own pieces straight into staging memory."""

from __future__ import annotations

from collections.abc import Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._distributed.staging import Placed
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session


class PieceReader:
    """Reads pieces of one member, round by round. One thread at a time."""

    def __init__(
        self,
        session: Session,
        paths: Sequence[str],
        member: int,
        device_type: native.DeviceType = native.DeviceType.HOST,
        ordinal: int = 0,
    ) -> None:
        self._session = session
        self._paths = paths
        self._member = member
        self._device_type = device_type
        self._ordinal = ordinal
        self._left: list[int] = []  # ranges of each submission that did not arrive yet

    def start(self, placed: Sequence[Placed], stream: int = 0) -> None:
        """Begins to read this member's pieces of the next round to where they stand.

        On a device, after what its stream `stream` (a handle) holds now.
        """
        requests: list[FileChunks] = []
        ranges = 0
        for one in placed:
            if one.piece.owner != self._member:
                continue
            place = one.memory.data_ptr() + one.offset
            for file, start, end in one.piece.extents:
                path = self._paths[file]
                if not requests or requests[-1].path != path:
                    requests.append(FileChunks(0, path, [], [], destinations=[], keep=one.memory))
                request = requests[-1]
                assert request.destinations is not None
                request.offsets.append(start)
                request.sizes.append(end - start)
                request.destinations.append(place)
                place += end - start
                ranges += 1
        self._left.append(ranges)
        self._session.submit(requests, self._device_type, self._ordinal, stream)

    def wait(self, number: int) -> None:
        """Waits until all of round `number` has arrived; raises what failed."""
        while self._left[number] > 0:
            batch, _ = self._session.stream.next()
            for ready in batch:
                if ready.error is not None:
                    raise ready.error
                self._left[ready.submission] -= ready.count
