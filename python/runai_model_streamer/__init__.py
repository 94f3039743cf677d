"""Model Streamer: safetensors from files and object storage into CPU and GPU memory.

>>> from runai_model_streamer import SafetensorsStreamer
>>> with SafetensorsStreamer() as streamer:
...     streamer.stream_files(["model.safetensors"])
...     for name, tensor in streamer.get_tensors():
...         ...
"""

from runai_model_streamer import _installation  # noqa: F401 - first: it may refuse
from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._distributed.streamer import DistributedStreamer
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    RunaiStreamerMemoryLimitException,
    SafetensorsHeaderError,
    StreamerChangedError,
    StreamerClosedError,
    StreamerDeviceError,
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
from runai_model_streamer._loading import load_checkpoint, load_file, load_model
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._safe_open import SafeOpen, safe_open
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._storage.checkpoint import list_checkpoint
from runai_model_streamer._storage.listing import list_files, list_safetensors, pull_files
from runai_model_streamer._storage.pull import ObjectStorageModel

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
    "StreamerError",
    "StreamerIOError",
    "StreamerImportError",
    "StreamerNotFoundError",
    "StreamerOutOfMemoryError",
    "StreamerPermissionError",
    "StreamerShortReadError",
    "StreamerTimeoutError",
    "StreamerUnsupportedError",
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
