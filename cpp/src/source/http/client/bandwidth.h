// A cap on the bytes per second that this process takes from the network.
#pragma once

#include <chrono>
#include <cstdint>

namespace streamer::http {

// Books `bytes` that have arrived against `limit` (bytes per second, not 0) of the process, and
// returns the pause of the caller that keeps the average below it. Thread-safe.
std::chrono::nanoseconds book_bandwidth(std::uint64_t bytes, std::uint64_t limit);

}  // namespace streamer::http
