#include "engine/stats.h"

#include <algorithm>

namespace streamer {

void StatsCollector::started(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  stats_.bytes_asked += bytes;
  if (!running_) start_ = last_ = Clock::now();
  running_ = true;
}

void StatsCollector::read(const ReadReport& report, std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  ++stats_.requests;
  stats_.retries += report.retries;
  stats_.bytes_read += bytes - report.skipped;
  stats_.bytes_by_strategy[report.strategy] += bytes - report.skipped;
}

void StatsCollector::delivered(SourceKind kind, std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  stats_.bytes += bytes;
  stats_.bytes_by_source[static_cast<int>(kind)] += bytes;
  last_ = Clock::now();
}

void StatsCollector::note(const std::string& key, const std::string& text) {
  const MutexLock lock(mutex_);
  stats_.notes[key] = text;
}

Stats StatsCollector::snapshot(const SchedulerTimes& times, const MemoryBudget& budget) const {
  const MutexLock lock(mutex_);
  Stats stats = stats_;
  stats.seconds = seconds_between(start_, last_);
  stats.wait_storage_seconds = times.wait_storage;
  stats.wait_consumer_seconds = times.wait_consumer;
  stats.wait_memory_seconds = times.wait_memory;
  stats.stragglers = stats.hedges = times.stragglers;
  std::ranges::copy(stats.bytes_by_source, stats.bytes_by_kind);
  stats.peak_memory = budget.peak();
  stats.memory_limit = budget.limit();
  stats.bound = bounded_by(stats.seconds, times);
  return stats;
}

std::string bounded_by(double seconds, const SchedulerTimes& times) {
  const double threshold = seconds / 10;
  if (std::max(times.wait_storage, times.wait_consumer) <= threshold) return "none";
  if (times.wait_consumer > times.wait_storage) return "consumer";
  // The consumer waited for bytes because storage was slow, or because there was no memory for
  // them.
  if (times.wait_memory > times.wait_storage / 2) return "window";
  switch (times.bound) {
    case ConcurrencyController::Bound::kLink: return "link";
    case ConcurrencyController::Bound::kConnections: return "connections";
    case ConcurrencyController::Bound::kProcessors: return "processors";
    case ConcurrencyController::Bound::kUnknown: break;
  }
  return "storage";
}

}  // namespace streamer
