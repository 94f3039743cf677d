// What the engine makes of its options.
#pragma once

#include <cstdint>

#include "streamer/types.h"

namespace streamer {

// The automatic memory limit for a source that reads `window_bytes` ahead: less in a small
// container.
std::uint64_t automatic_memory_limit(std::uint64_t window_bytes);

// kInvalid if an option is out of its range.
Status check_options(const Options& options);

}  // namespace streamer
