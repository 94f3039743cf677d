// The interval at which a call that waits checks for an interrupt.
#pragma once

#include <chrono>

namespace streamer {

inline constexpr std::chrono::milliseconds kInterruptPoll{100};

}  // namespace streamer
