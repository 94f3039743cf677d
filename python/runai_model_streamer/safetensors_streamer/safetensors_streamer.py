"""The original's module path of SafetensorsStreamer, and of the functions that list and pull."""

from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._storage.listing import list_safetensors, pull_files
from runai_model_streamer._storage.pull import ObjectStorageModel

__all__ = ["ObjectStorageModel", "SafetensorsStreamer", "list_safetensors", "pull_files"]
