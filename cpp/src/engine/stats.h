// Counters of one stream.
#pragma once

#include <chrono>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"
#include "engine/scheduler.h"
#include "streamer/types.h"

namespace streamer {

// Thread-safe.
class StatsCollector {
 public:
  // A submission of `bytes` came; the first one starts the clock.
  void started(std::uint64_t bytes);
  void read(const ReadReport& report, std::uint64_t bytes);
  void delivered(SourceKind kind, std::uint64_t bytes);
  void note(const std::string& key, const std::string& text);
  Stats snapshot(const SchedulerTimes& times, const MemoryBudget& budget) const;

 private:
  mutable Mutex mutex_;
  bool running_ GUARDED_BY(mutex_) = false;
  Clock::time_point start_ GUARDED_BY(mutex_);
  Clock::time_point last_ GUARDED_BY(mutex_);
  Stats stats_ GUARDED_BY(mutex_);
};

// The bound of a load that took `seconds`: see Stats::bound.
std::string bounded_by(double seconds, const SchedulerTimes& times);

}  // namespace streamer
