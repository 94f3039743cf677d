"""The original's module path, which vLLM and SGLang import."""

from runai_model_streamer._distributed.streamer import DistributedStreamer

__all__ = ["DistributedStreamer"]
