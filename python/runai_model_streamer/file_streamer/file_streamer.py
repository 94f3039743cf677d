"""The original's module path, which programs import that catch the error for invalid input."""

from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._file_streamer import FileStreamer

__all__ = ["FileStreamer", "RunaiStreamerInvalidInputException"]
