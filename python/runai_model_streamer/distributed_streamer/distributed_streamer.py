"""The original's module path. SGLang replaces methods and attributes of this module, so the name
stands for the implementation itself."""

import sys

from runai_model_streamer._distributed import streamer

sys.modules[__name__] = streamer
