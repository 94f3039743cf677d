"""from_pretrained() of transformers, diffusers and accelerate, with weights that are streamed.

>>> from runai_model_streamer.integrations import pretrained
>>> with pretrained("s3://bucket/model") as directory:
...     model = AutoModel.from_pretrained(directory)
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import EllipsisType, TracebackType
from typing import Any

import torch
from typing_extensions import Self  # of torch's own needs

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._formats.safetensors.tensor_slice import Index, TensorSlice
from runai_model_streamer._loading import load_file
from runai_model_streamer._paths import Path, is_remote, is_url, to_text
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._session import Ownership
from runai_model_streamer._storage.local import is_weights
from runai_model_streamer._storage.pull import pull_objects, weights_below
from runai_model_streamer._torch import device_of

__all__ = ["pretrained"]

# Weights of other formats, which are not needed beside safetensors files.
_OTHER_WEIGHTS = [
    f"*.{kind}" for kind in ("bin", "ckpt", "gguf", "h5", "msgpack", "onnx", "pt", "pth")
]
# The functions of safetensors by which the three packages read files, under the names by which
# they call them. A module that is imported later takes those of safetensors.
_OPEN, _LOAD = "safe_open", "load_file"
_POINTS = (
    ("safetensors", "safe_open", _OPEN),
    ("safetensors.torch", "safe_open", _OPEN),
    ("safetensors.torch", "load_file", _LOAD),
    ("transformers.modeling_utils", "safe_open", _OPEN),
    ("accelerate.utils.modeling", "safe_open", _OPEN),
    ("accelerate.utils.modeling", "safe_load_file", _LOAD),
    ("diffusers.models.modeling_utils", "safe_open", _OPEN),
)


@contextlib.contextmanager
def pretrained(path: Path, s3_credentials: S3Credentials | None = None) -> Iterator[str]:
    """A local directory for from_pretrained() and load_checkpoint_in_model(), in which safetensors
    files are read by a SafetensorsStreamer for as long as the block lasts.

    `path` is a directory, or a URI of one: s3://, gs://, az://, hf://, ... A local directory is
    yielded as it is. Of a remote one, everything but weights is copied to a temporary directory,
    which the end of the block removes. It has an empty file in the place of each safetensors file,
    so that a program without safetensors' functions fails, instead of loading other bytes.
    A directory of the hub is read at one commit.

    Blocks may be nested, and may be active in several threads. Files elsewhere are read as usual.

    Raises StreamerError if the directory can't be listed or copied, and if a local `path` is not a
    directory.
    """
    source = to_text(path)
    if is_url(source):
        raise RunaiStreamerInvalidInputException(
            f"{source}: a URL has no directories: use the URI of its store", path=source
        )
    if not is_remote(source):
        if not os.path.isdir(source):
            raise RunaiStreamerInvalidInputException(
                f"{source}: not a directory: give a directory, or a URI: the hub's are "
                "hf://organisation/model",
                path=source,
            )
        with _streaming(source, {}, s3_credentials):
            yield source
        return
    with tempfile.TemporaryDirectory(prefix="runai-model-") as directory:
        ignored = ["*.safetensors", *_OTHER_WEIGHTS]
        _, source = pull_objects(source, directory, None, ignored, s3_credentials)
        places = weights_below(source, directory, s3_credentials)
        for file in places:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "xb"):
                pass
        with _streaming(directory, places, s3_credentials):
            yield directory


class _Directory:
    """A directory whose safetensors files are streamed."""

    def __init__(
        self, directory: str, places: dict[str, str], credentials: S3Credentials | None
    ) -> None:
        """`places` are the URIs of files that are elsewhere, by absolute paths."""
        self._root = os.path.abspath(directory).rstrip("/") + "/"
        self._places = places
        self.credentials = credentials

    def place_of(self, file: str) -> str | None:
        """The source of the bytes of `file`; None if they are not needed here."""
        absolute = os.path.abspath(file)
        if not absolute.startswith(self._root) or not is_weights(os.path.basename(absolute)):
            return None
        return self._places.get(absolute, file)


_lock = threading.Lock()
_directories: list[_Directory] = []
_replaced: dict[tuple[str, str], Any] = {}


@contextlib.contextmanager
def _streaming(
    directory: str, places: dict[str, str], credentials: S3Credentials | None
) -> Iterator[None]:
    one = _Directory(directory, places, credentials)
    with _lock:
        _directories.append(one)
        _replace()
    try:
        yield
    finally:
        with _lock:
            _directories.remove(one)
            if not _directories:
                _restore()


def _replace() -> None:
    for name, attribute, kind in _POINTS:
        module = sys.modules.get(name)
        present = getattr(module, attribute, None)
        if present is not None and not isinstance(present, _Dispatcher):
            _replaced[name, attribute] = present
            setattr(module, attribute, _Dispatcher(present, _MAKERS[kind]))


def _restore() -> None:
    for (name, attribute), former in _replaced.items():
        module = sys.modules.get(name)
        if isinstance(getattr(module, attribute, None), _Dispatcher):
            setattr(module, attribute, former)
    _replaced.clear()


class _Dispatcher:
    """Calls `former` for files that are in no directory of a block, also after the last block:
    a module that was imported in one keeps this."""

    def __init__(self, former: Callable[..., Any], make: Callable[..., Any]) -> None:
        self._former = former
        self._make = make
        self.__doc__ = former.__doc__

    def __call__(self, filename: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(filename, str | os.PathLike):
            file = os.fspath(filename)
            for one in reversed(tuple(_directories)):
                place = one.place_of(file) if isinstance(file, str) else None
                if place is not None:
                    return self._make(one, place, *arguments, **options)
        return self._former(filename, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._former, name)


def _load_file(
    one: _Directory, place: str, device: str | int | torch.device = "cpu", **_: object
) -> dict[str, torch.Tensor]:
    return load_file(place, device, one.credentials)


class _File:
    """safetensors.safe_open() of one file. Thread-safe.

    Tensors that were named by get_slice() are streamed together, in file order, when the first one
    of them is asked for; so that consumers who collect slices first, and take them then, have the
    next ones read ahead. Tensors that come before they are requested are kept.
    """

    def __init__(
        self,
        one: _Directory,
        place: str,
        framework: str = "pt",
        device: str | int | torch.device = "cpu",
        **_: object,
    ) -> None:
        if framework not in ("pt", "torch", "pytorch"):
            raise RunaiStreamerInvalidInputException(
                f"{place}: only tensors of PyTorch are streamed, not {framework!r}", path=place
            )
        self._place = place
        self._credentials = one.credentials
        self._device = device_of(device)
        self._lock = threading.Lock()
        self._streamer = SafetensorsStreamer()
        self._streamer.open_files([place], one.credentials)
        self._named: dict[str, None] = {}
        self._ahead: dict[str, torch.Tensor] = {}
        self._tensors: Iterator[tuple[str, torch.Tensor]] | None = None
        self._coming: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._ahead.clear()
            self._streamer.close()

    def keys(self) -> list[str]:
        return sorted(self._streamer.keys())

    def offset_keys(self) -> list[str]:
        return self._streamer.keys()

    def metadata(self) -> dict[str, str] | None:
        return self._streamer.metadata() or None

    def get_tensor(self, name: str) -> torch.Tensor:
        with self._lock:
            if name in self._named and name not in self._coming and name not in self._ahead:
                self._begin()
            while name in self._coming:
                assert self._tensors is not None
                came, tensor = next(self._tensors)
                self._coming.discard(came)
                self._ahead[came] = tensor
            if name in self._ahead:
                return self._ahead.pop(name)
        return self.part(name, ...)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self._place, self._device, self._credentials)

    def _begin(self) -> None:
        """Streams the tensors that were named since, and were not taken."""
        if self._coming:  # of a stream that goes on
            return
        named, self._named = [*self._named], {}
        self._streamer._stream(
            [self._place],
            self._credentials,
            self._device,
            named,
            ownership=Ownership.COPIED,  # every tensor is kept
        )
        self._coming = set(named)
        self._tensors = self._streamer.get_tensors()

    def get_slice(self, name: str) -> _Slice:
        with self._lock:
            if name not in self._streamer:
                raise KeyError(name)
            self._named[name] = None
        return _Slice(self, name)

    def part(self, name: str, index: Index) -> torch.Tensor:
        """Reads only what `index` selects."""
        return self.slice_of(name)[index].to(self._device)

    def slice_of(self, name: str) -> TensorSlice[torch.Tensor]:
        with self._lock:
            return self._streamer.get_slice(name)


class _Slice:
    """The result of safe_open().get_slice()."""

    def __init__(self, file: _File, name: str) -> None:
        self._file = file
        self._name = name

    def get_shape(self) -> list[int]:
        return self._file.slice_of(self._name).get_shape()

    def get_dtype(self) -> str:
        return self._file.slice_of(self._name).get_dtype()

    def __getitem__(self, index: Index) -> torch.Tensor:
        if isinstance(index, EllipsisType):
            return self._file.get_tensor(self._name)
        return self._file.part(self._name, index)


_MAKERS: dict[str, Callable[..., Any]] = {_OPEN: _File, _LOAD: _load_file}
