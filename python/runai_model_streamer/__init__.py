"""Model Streamer: safetensors from files and object storage into CPU and GPU memory.

>>> from runai_model_streamer import SafetensorsStreamer
>>> with SafetensorsStreamer() as streamer:
...     streamer.stream_files(["model.safetensors"])
...     for name, tensor in streamer.get_tensors():
...         ...
"""

import importlib
from typing import TYPE_CHECKING

from runai_model_streamer import _installation  # noqa: F401 - first: it may refuse
from runai_model_streamer import _native_api as native

if TYPE_CHECKING:
    from runai_model_streamer._credentials.s3_credentials import S3Credentials
    from runai_model_streamer._distributed.streamer import DistributedStreamer
    from runai_model_streamer._errors import (
        RunaiStreamerInvalidInputException,
        RunaiStreamerMemoryLimitException,
        SafetensorsHeaderError,
        StreamerChangedError,
        StreamerClosedError,
        StreamerDeviceError,
        StreamerDigestError,
        StreamerError,
        StreamerImportError,
        StreamerIOError,
        StreamerNotFoundError,
        StreamerOutOfMemoryError,
        StreamerPermissionError,
        StreamerShortReadError,
        StreamerTimeoutError,
        StreamerUnsupportedError,
    )
    from runai_model_streamer._file_streamer import FileStreamer
    from runai_model_streamer._key_map import Target
    from runai_model_streamer._loading import load_checkpoint, load_file, load_model
    from runai_model_streamer._requests import FileChunks
    from runai_model_streamer._safe_open import SafeOpen, safe_open
    from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
    from runai_model_streamer._stats import StreamStats
    from runai_model_streamer._storage.checkpoint import list_checkpoint
    from runai_model_streamer._storage.listing import list_files, list_safetensors, pull_files
    from runai_model_streamer._storage.object_storage_model import ObjectStorageModel

# The module of each name: imported when it is used first. Lists and pulls need no torch, and a
# process that only imports the package pays for nothing else.
_MODULES = {
    "_credentials.s3_credentials": ("S3Credentials",),
    "_distributed.streamer": ("DistributedStreamer",),
    "_errors": (
        "RunaiStreamerInvalidInputException",
        "RunaiStreamerMemoryLimitException",
        "SafetensorsHeaderError",
        "StreamerChangedError",
        "StreamerClosedError",
        "StreamerDeviceError",
        "StreamerDigestError",
        "StreamerError",
        "StreamerImportError",
        "StreamerIOError",
        "StreamerNotFoundError",
        "StreamerOutOfMemoryError",
        "StreamerPermissionError",
        "StreamerShortReadError",
        "StreamerTimeoutError",
        "StreamerUnsupportedError",
    ),
    "_file_streamer": ("FileStreamer",),
    "_key_map": ("Target",),
    "_loading": ("load_checkpoint", "load_file", "load_model"),
    "_requests": ("FileChunks",),
    "_safe_open": ("SafeOpen", "safe_open"),
    "_safetensors_streamer": ("SafetensorsStreamer",),
    "_stats": ("StreamStats",),
    "_storage.checkpoint": ("list_checkpoint",),
    "_storage.listing": ("list_files", "list_safetensors", "pull_files"),
    "_storage.object_storage_model": ("ObjectStorageModel",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "RunaiStreamerInvalidInputException",
    "RunaiStreamerMemoryLimitException",
    "S3Credentials",
    "SafeOpen",
    "SafetensorsHeaderError",
    "SafetensorsStreamer",
    "StreamStats",
    "StreamerChangedError",
    "StreamerClosedError",
    "StreamerDeviceError",
    "StreamerDigestError",
    "StreamerError",
    "StreamerIOError",
    "StreamerImportError",
    "StreamerNotFoundError",
    "StreamerOutOfMemoryError",
    "StreamerPermissionError",
    "StreamerShortReadError",
    "StreamerTimeoutError",
    "StreamerUnsupportedError",
    "Target",
    "__version__",
    "list_checkpoint",
    "list_files",
    "list_safetensors",
    "load_checkpoint",
    "load_file",
    "load_model",
    "pull_files",
    "safe_open",
]

__version__: str = native.version()
"""The version of the package."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"{name} needs torch, which is not installed: install torch, or use "
            f"{__name__}.numpy or {__name__}.dlpack"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
