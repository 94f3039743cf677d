"""The original's module path of SafetensorsStreamer."""

from runai_model_streamer._safetensors_streamer import SafetensorsStreamer

__all__ = ["SafetensorsStreamer"]
