// Finds reads that are far slower than the others. A connection that waits for lost packets delays
// everything behind it in the order of the files, and in the end it holds all of the memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "source/source.h"

namespace streamer {

// Aborts stragglers: their unread tail is for another connection. Aborts are few: beyond the first
// ones, sixteen reads have to end for each. Not thread-safe.
class StragglerDetector {
 public:
  using TimePoint = Clock::time_point;

  // `aborts`: how often the bytes of this read were taken from another one.
  void began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes, int aborts,
             TimePoint now);
  // No effect if the read is not watched.
  void ended(const ReadProgress* progress, TimePoint now);
  // Aborts at most one read.
  void check(TimePoint now);
  // Whether enough reads ended to compare with.
  bool typical_known() const;
  bool watching() const { return !reads_.empty(); }
  std::uint64_t aborts() const { return aborts_; }

 private:
  struct Mark {
    TimePoint time;
    std::uint64_t received = 0;
  };
  struct Read {
    std::shared_ptr<ReadProgress> progress;
    std::uint64_t bytes = 0;
    int aborts = 0;
    TimePoint start;
    Mark older, newer;  // for the recent rate
  };
  struct Ended {
    std::uint64_t bytes;
    double seconds;
  };
  double typical_seconds(std::uint64_t bytes) const;
  static bool lags(Read* read, double typical, TimePoint now);

  std::vector<Read> reads_;   // under way, in the order in which they began
  std::deque<Ended> recent_;  // reads that were not aborted
  TimePoint checked_{};
  std::uint64_t ended_ = 0;
  std::uint64_t aborts_ = 0;
};

}  // namespace streamer
