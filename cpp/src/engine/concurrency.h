// How many reads of one source may be under way at once.
#pragma once

#include <chrono>
#include <cstdint>

#include "source/source.h"

namespace streamer {

// Not thread-safe: the scheduler calls it under its lock.
class ConcurrencyController {
 public:
  // `fixed` above 0 is obeyed exactly.
  ConcurrencyController(int fixed, const SourceTraits& traits);

  int limit() const { return limit_; }
  int maximum() const { return maximum_; }
  // A read of `bytes` ended while `active` reads were under way, itself included. `congested`
  // tells that the server asked to slow down.
  void completed(std::uint64_t bytes, int active, bool congested,
                 std::chrono::steady_clock::time_point now);

 private:
  int limit_;
  int maximum_;
};

}  // namespace streamer
