// Finds reads that lag far behind the others: a connection that waits for lost packets holds what
// comes behind it in the order of the files, and in the end all of the memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "source/source.h"

namespace streamer {

// A laggard is told to end; what it misses is for another connection. Few are: sixteen reads have
// to end for each one beyond the first. Not thread-safe: the scheduler calls it under its lock.
class ReadWatch {
 public:
  using TimePoint = Clock::time_point;

  // `cuts`: how often the bytes of this read were taken from another one.
  void began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes, int cuts, TimePoint now);
  // Nothing where the read is not watched.
  void ended(const ReadProgress* progress, TimePoint now);
  // Tells at most one read to end.
  void look(TimePoint now);
  // Whether there were enough reads to compare with.
  bool usual_known() const;
  bool watching() const { return !reads_.empty(); }
  std::uint64_t cuts() const { return cuts_; }

 private:
  struct Mark {
    TimePoint time;
    std::uint64_t received = 0;
  };
  struct Read {
    std::shared_ptr<ReadProgress> progress;
    std::uint64_t bytes = 0;
    int cuts = 0;
    TimePoint start;
    Mark older, newer;  // for the rate of late
  };
  struct Ended {
    std::uint64_t bytes;
    double seconds;
  };
  double usual_seconds(std::uint64_t bytes) const;
  static bool lags(Read* read, double usual, TimePoint now);

  std::vector<Read> reads_;   // under way, in the order in which they began
  std::deque<Ended> recent_;  // reads that ended by themselves
  TimePoint looked_{};
  std::uint64_t ended_ = 0;
  std::uint64_t cuts_ = 0;
};

}  // namespace streamer
