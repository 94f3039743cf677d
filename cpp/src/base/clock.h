// The time of decisions and counters.
#pragma once

#include <chrono>

namespace streamer {

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace streamer
