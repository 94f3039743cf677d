// How often a caller that waits is asked whether it was interrupted.
#pragma once

#include <chrono>

namespace streamer {

inline constexpr std::chrono::milliseconds kInterruptPoll{100};

}  // namespace streamer
