// The meaning of Options, and of its memory_limit.
#pragma once

#include <cstdint>

#include "streamer/types.h"

namespace streamer {

// Bytes of the budget to start with: -1 is unlimited (the greatest number), a number above 0
// itself. 0 and -2 (chosen here) start at 0: the scheduler raises them to the largest block, and
// the stream raises -2 to the default of each source that it uses.
std::uint64_t initial_memory_limit(std::int64_t setting);

// What a source that reads `window_bytes` ahead gets: less in a small container.
std::uint64_t default_memory_limit(std::uint64_t window_bytes);

// kInvalid where an option is out of its range.
Status check_options(const Options& options);

}  // namespace streamer
