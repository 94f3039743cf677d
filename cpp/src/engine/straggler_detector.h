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

// Aborts stragglers: their unread tail is for another connection. The waste of aborts, bytes on
// their way and a new connection, is a small part of the bytes that reads bring. Not thread-safe.
class StragglerDetector {
 public:
  using TimePoint = Clock::time_point;

  // `aborts`: the times that the bytes of this read were taken from another one.
  void began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes, int aborts,
             TimePoint now);
  // `waited`: seconds until responses began. No effect if the read is not watched.
  void ended(const ReadProgress* progress, double waited, TimePoint now);
  // Aborts the reads that lag. `idle`: workers have nothing to read, since nothing is left or since
  // bytes that were read fill the memory, so that all workers wait for the slowest read.
  void check(bool idle, TimePoint now);
  // True if enough reads ended to compare with.
  bool typical_known() const { return recent_.size() >= kLeastRecent; }
  bool watching() const { return !reads_.empty(); }
  // Received by the reads that have not ended.
  std::uint64_t bytes_in_flight() const;
  std::uint64_t aborts() const { return aborts_; }

 private:
  static constexpr std::size_t kRecent = 16;
  static constexpr std::size_t kLeastRecent = 4;
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
    double waited;  // seconds
    double rate;    // bytes per second after that
    bool fresh;
  };
  // A read of an ordinary connection.
  struct Typical {
    double waited = 0;
    double rate = 0;
    double seconds(std::uint64_t bytes) const { return waited + static_cast<double>(bytes) / rate; }
  };
  Typical typical() const;
  void judge(Read* read, const Typical& typical, bool idle, TimePoint now);

  std::vector<Read> reads_;   // in flight, in the order in which they began
  std::deque<Ended> recent_;  // reads that were not aborted
  TimePoint checked_{};
  std::uint64_t ended_bytes_ = 0;
  double wasted_bytes_ = 0;
  std::uint64_t aborts_ = 0;
};

}  // namespace streamer
