// The grouping of small ranges: by the engine, and by the Python package if it fills memory itself.
#pragma once

#include <cstdint>

#include "base/memory_units.h"

namespace streamer {

// Ranges smaller than kSmallRange share blocks of up to kGroupBytes, so that a kept tensor never
// holds much more memory than itself. Any other range is a block of its own.
inline constexpr std::uint64_t kSmallRange = 256 * kKiB;
inline constexpr std::uint64_t kGroupBytes = kMiB;

}  // namespace streamer
