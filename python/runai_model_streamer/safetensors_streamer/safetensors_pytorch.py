"""The original's module path, which vLLM and TPU loaders import prepare_request() from."""

from runai_model_streamer._errors import SafetensorsHeaderError
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata, prepare_request
from runai_model_streamer._formats.safetensors.tensors import create_torch_tensor
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype

__all__ = [
    "SafetensorMetadata",
    "SafetensorsHeaderError",
    "SafetensorsMetadata",
    "create_torch_tensor",
    "prepare_request",
    "safetensors_to_torch_dtype",
]
