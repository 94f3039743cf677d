"""Model Streamer: safetensors from files and object storage into CPU and GPU memory.

>>> from runai_model_streamer import SafetensorsStreamer
>>> with SafetensorsStreamer() as streamer:
...     streamer.stream_files(["model.safetensors"])
...     for name, tensor in streamer.get_tensors():
...         ...
"""

from runai_model_streamer import interpreter  # noqa: F401 - first: it may refuse
from runai_model_streamer.distributed_streamer import DistributedStreamer
from runai_model_streamer.errors import (
    RunaiStreamerInvalidInputException,
    RunaiStreamerMemoryLimitException,
    StreamerError,
)
from runai_model_streamer.file_listing import list_safetensors, pull_files
from runai_model_streamer.file_streamer import FileChunks, FileStreamer
from runai_model_streamer.loading import load_file, load_model
from runai_model_streamer.object_storage import ObjectStorageModel
from runai_model_streamer.safetensors_streamer import SafetensorsStreamer
from runai_model_streamer.stats import StreamStats

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "RunaiStreamerInvalidInputException",
    "RunaiStreamerMemoryLimitException",
    "SafetensorsStreamer",
    "StreamStats",
    "StreamerError",
    "list_safetensors",
    "load_file",
    "load_model",
    "pull_files",
]
