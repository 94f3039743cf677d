"""Random access to the tensors of a checkpoint, in the style of safetensors.safe_open."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerImportError
from runai_model_streamer._formats.safetensors.headers import read_headers_in
from runai_model_streamer._formats.safetensors.numpy_arrays import Array, NumpyArrays
from runai_model_streamer._formats.safetensors.selection import by_name, refuse_lacking
from runai_model_streamer._formats.safetensors.tensor_slice import (
    Library,
    SliceReader,
    TensorSlice,
    TorchTensors,
)
from runai_model_streamer._gc import collection_paused
from runai_model_streamer._paths import Path
from runai_model_streamer._session import Session
from runai_model_streamer._storage.checkpoint import find_checkpoint
from runai_model_streamer._torch import device_of

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch

T = TypeVar("T")


class SafeOpen(Generic[T]):
    """The tensors of a checkpoint, read one by one or in parts. safe_open() makes it.

    A context manager. Thread-safe, and usable in a forked process. The headers are read once, and
    the files stay open until close(). Tensors belong to the caller. A loop over all tensors is
    faster with a SafetensorsStreamer, which reads ahead.

    Methods raise StreamerChangedError if a file was replaced, StreamerClosedError after close().
    """

    def __init__(
        self,
        path: Path,
        library: Library[T],
        s3_credentials: S3Credentials | None = None,
        variant: str | None = None,
    ) -> None:
        self._library = library
        self._slices = SliceReader(s3_credentials)
        checkpoint = find_checkpoint(path, s3_credentials, variant)
        session = Session(checkpoint.files, credentials=s3_credentials)
        self._slices.take(session)
        try:
            files = list(read_headers_in(session, checkpoint.files))
            self._files = {file.path: file for file in files}
            with collection_paused():
                self._tensors = by_name(files, checkpoint.index)
            refuse_lacking(checkpoint.index, self._tensors)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SafeOpen[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files. No-op when repeated. Tensors stay valid, slices do not."""
        self._slices.close()

    def keys(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def offset_keys(self) -> list[str]:
        """The names of all tensors, in the order of the files and of their places in them."""
        return list(self._tensors)

    def metadata(self) -> dict[str, str] | None:
        """``__metadata__`` of all files, later ones winning; None if no file has any."""
        merged: dict[str, str] = {}
        for file in self._files.values():
            merged.update(file.metadata)
        return merged or None

    def get_tensor(self, name: str) -> T:
        """The tensor `name`. Raises KeyError if there is none."""
        return self.get_slice(name)[...]

    def get_slice(self, name: str) -> TensorSlice[T]:
        """A tensor whose parts are read on demand: ``get_slice(name)[10:20]``.

        Raises KeyError if there is none.
        """
        path, tensor = self._tensors[name]
        return TensorSlice(self._slices, self._files[path], tensor, self._library)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        """The names, as offset_keys()."""
        return iter(self._tensors)

    def __repr__(self) -> str:
        return f"<SafeOpen: {len(self)} tensors in {len(self._files)} files>"


@overload
def safe_open(
    filename: Path,
    framework: Literal["pt", "torch", "pytorch"] = "pt",
    device: str | torch.device | int = "cpu",
    *,
    s3_credentials: S3Credentials | None = None,
    variant: str | None = None,
) -> SafeOpen[torch.Tensor]: ...


@overload
def safe_open(
    filename: Path,
    framework: Literal["np", "numpy"],
    device: str | torch.device | int = "cpu",
    *,
    s3_credentials: S3Credentials | None = None,
    variant: str | None = None,
) -> SafeOpen[Array]: ...


def safe_open(
    filename: Path,
    framework: str = "pt",
    device: str | torch.device | int = "cpu",
    *,
    s3_credentials: S3Credentials | None = None,
    variant: str | None = None,
) -> SafeOpen[torch.Tensor] | SafeOpen[Array]:
    """Opens a file, an index, a directory or a pattern, local or remote: see list_checkpoint().

    `framework` is "pt" or "np": what get_tensor() and slices return. `device` is that of tensors of
    PyTorch, which "np" does not need.

    Raises SafetensorsHeaderError if the index names a tensor that its file does not have.
    """
    if framework in ("pt", "torch", "pytorch"):
        try:
            target = device_of(device)
        except ModuleNotFoundError as error:
            raise StreamerImportError(
                "safe_open: tensors need torch, which is not installed: install torch, or use "
                'framework="np"',
                code="package",
            ) from error
        return SafeOpen(filename, TorchTensors(target), s3_credentials, variant)
    if framework in ("np", "numpy"):
        if str(device) != "cpu":
            raise RunaiStreamerInvalidInputException(
                f"safe_open: arrays of numpy are in host memory, not on {device}"
            )
        return SafeOpen(filename, NumpyArrays(), s3_credentials, variant)
    raise RunaiStreamerInvalidInputException(
        f"safe_open: the framework {framework!r} is neither 'pt' nor 'np'"
    )
