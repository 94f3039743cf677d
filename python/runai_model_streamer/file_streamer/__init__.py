"""The original's module path: loaders of single requests import FileChunks from here."""

from runai_model_streamer._file_streamer import FileStreamer
from runai_model_streamer._requests import FileChunks

__all__ = ["FileChunks", "FileStreamer"]
