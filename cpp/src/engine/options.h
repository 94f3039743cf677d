// Values that the engine derives from its options.
#pragma once

#include <cstdint>

#include "streamer/types.h"

namespace streamer {

// The automatic memory limit: its first value for a source that reads `window_bytes` ahead, and the
// most that it may grow to. Less in a small container.
struct AutomaticLimit {
  std::uint64_t first = 0;
  std::uint64_t most = 0;
};
AutomaticLimit automatic_memory_limit(std::uint64_t window_bytes);

// kInvalid if an option is out of its range.
Status check_options(const Options& options);

}  // namespace streamer
