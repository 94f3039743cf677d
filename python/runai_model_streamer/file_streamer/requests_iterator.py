"""The original's module path, which programs import that catch the error for the memory limit."""

from runai_model_streamer._errors import RunaiStreamerMemoryLimitException
from runai_model_streamer._requests import FileChunks

__all__ = ["FileChunks", "RunaiStreamerMemoryLimitException"]
