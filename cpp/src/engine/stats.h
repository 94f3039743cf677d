// Counters of one stream.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "engine/scheduler.h"
#include "streamer/types.h"

namespace streamer {

// Thread-safe.
class StatsCollector {
 public:
  void started();  // a submission came; the first one starts the clock
  void read(const ReadReport& report, std::uint64_t bytes);
  void delivered(SourceKind kind, std::uint64_t bytes);
  void note(const std::string& key, const std::string& text);
  Stats snapshot(const SchedulerTimes& times, const MemoryBudget& budget) const;

 private:
  mutable std::mutex mutex_;
  bool running_ = false;
  Clock::time_point start_, last_;
  Stats stats_;
};

// What bounded a load that took `seconds`: storage, consumer, memory, or none where nothing waited
// for a tenth of the time.
std::string bounded_by(double seconds, const SchedulerTimes& times);

}  // namespace streamer
