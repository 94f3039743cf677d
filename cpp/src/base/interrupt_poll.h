// The interval at which a caller that waits is asked for an interrupt.
#pragma once

#include <chrono>

namespace streamer {

inline constexpr std::chrono::milliseconds kInterruptPoll{100};

}  // namespace streamer
