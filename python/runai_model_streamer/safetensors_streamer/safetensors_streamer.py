"""The original's module path, for programs that list and pull by it. vLLM and SGLang import these
names from the package."""

from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._storage.listing import list_safetensors, pull_files
from runai_model_streamer._storage.object_storage_model import ObjectStorageModel

__all__ = ["ObjectStorageModel", "SafetensorsStreamer", "list_safetensors", "pull_files"]
