// The meaning of Options, and of its memory_limit.
#pragma once

#include <cstdint>

#include "streamer/stream.h"

namespace streamer {

// Bytes of the budget for `setting`: -2 chosen here, -1 unlimited (the greatest number), else
// itself. The scheduler raises 0 and -2 to the largest block.
std::uint64_t initial_memory_limit(std::int64_t setting);

// kInvalid where an option is out of its range.
Status check_options(const Options& options);

}  // namespace streamer
