"""The original's module path of StreamerPatcher, for tests of programs that load models."""

from runai_model_streamer._streamer_mock import StreamerPatcher

__all__ = ["StreamerPatcher"]
