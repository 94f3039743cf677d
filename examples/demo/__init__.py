"""`make demo`: a real model and a large one, streamed and compared with safetensors."""
