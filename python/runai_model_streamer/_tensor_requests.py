"""The requests of one load of tensors, made of headers as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from runai_model_streamer._formats.safetensors.header import SafetensorMetadata, check_tensors
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata, make_request
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._verify.interleaving import interleaved
from runai_model_streamer._verify.load import LoadCheck

if TYPE_CHECKING:
    import torch

_PIECE_BYTES = 8 << 20  # of a file that is verified, before the next one has its turn
Chosen = Iterable[tuple[SafetensorsMetadata, list[SafetensorMetadata]]]


class TensorRequests:
    """Makes the request for each file, and notes the files and the tensors that were asked for.

    Nothing is complete before the last request was taken.
    """

    def __init__(self, check: LoadCheck | None) -> None:
        """`check` gets each file, if the load is verified."""
        self.files: list[SafetensorsMetadata] = []
        self.tensors: dict[int, list[SafetensorMetadata]] = {}
        """Those of each file, by its index."""
        self.total_size = 0
        self._check = check

    def checked(
        self, chosen: Chosen
    ) -> Iterator[tuple[SafetensorsMetadata, list[SafetensorMetadata]]]:
        """`chosen`: the files with their wanted tensors. Raises if torch lacks the dtype of one."""
        for file, tensors in chosen:
            self.files.append(file)
            check_tensors(tensors, file.path)
            yield file, tensors

    def requests(self, chosen: Chosen, targets: dict[str, torch.Tensor]) -> Iterator[FileChunks]:
        """The request for each file. `targets`: the destinations that the engine writes to."""
        for index, (file, tensors) in enumerate(chosen):
            request = make_request(index, file.path, file.offset, tensors)
            if targets:
                request.destinations = [
                    targets[tensor.name].data_ptr() if tensor.name in targets else 0
                    for tensor in tensors
                ]
                request.keep = targets
            if self._check is not None:
                shapes = [tensor.shape for tensor in tensors]  # of parts, if there are slices
                whole = shapes == [tensor.shape for tensor in file.tensors_metadata]
                self._check.expect(index, file.path, file.head, len(tensors), whole)
            self.tensors[index] = tensors
            self.total_size += request.total_size()
            yield request

    def pieces(
        self,
        requests: Iterable[FileChunks],
        files: dict[int, list[SafetensorMetadata]],
        numbers: list[int],
    ) -> Iterator[FileChunks]:
        """Parts of `requests` in turn. Notes the tensors of each part, and the number of its file,
        by the id of the part."""
        active: dict[int, FileChunks] = {}

        def sizes() -> Iterator[list[int]]:
            for index, request in enumerate(requests):
                active[index] = request
                yield request.sizes

        for index, first, last in interleaved(sizes(), _PIECE_BYTES):
            request, number = active[index], len(numbers)
            if last == len(request.sizes):
                del active[index]
            files[number] = self.tensors[index][first:last]
            numbers.append(index)
            yield request.part(number, first, last)
