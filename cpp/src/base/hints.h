// Hints of errors that several layers report.
#pragma once

namespace streamer {

// The context of a device has failed for good.
inline constexpr char kStickyHint[] =
    "The GPU can't be used any more in this process. The cause is often an earlier kernel: run "
    "with CUDA_LAUNCH_BLOCKING=1 to find it";

}  // namespace streamer
