"""The commands of `model-streamer`, one module each. They print what `_tools` finds out."""
