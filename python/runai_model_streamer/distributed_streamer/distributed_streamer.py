"""The original's module path. SGLang replaces methods and attributes of this module, so the name
stands for the implementation itself."""

import sys
from typing import TYPE_CHECKING

from runai_model_streamer._distributed import streamer

if TYPE_CHECKING:
    from runai_model_streamer._distributed.streamer import (
        DistributedStreamer as DistributedStreamer,
    )
    from runai_model_streamer._distributed.streamer import (
        _distributedStreamerParams as _distributedStreamerParams,
    )

sys.modules[__name__] = streamer
