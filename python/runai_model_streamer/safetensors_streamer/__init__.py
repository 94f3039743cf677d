"""The original's package. vLLM and tpu-inference import its module safetensors_pytorch."""

from runai_model_streamer._safetensors_streamer import SafetensorsStreamer

__all__ = ["SafetensorsStreamer"]
