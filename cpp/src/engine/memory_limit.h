// The meaning of Options::memory_limit.
#pragma once

#include <cstdint>

namespace streamer {

// Bytes of the budget for `setting`: -2 chosen here, -1 unlimited (the greatest number), else
// itself. The scheduler raises 0 and -2 to the largest block.
std::uint64_t initial_memory_limit(std::int64_t setting);

}  // namespace streamer
