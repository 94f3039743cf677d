// The times of the reads into each slot and of its copies, which show their overlap.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"

namespace streamer::gpu {

// Thread-safe. Collects nothing unless it has a file to write to.
class Trace {
 public:
  explicit Trace(std::string path) : path_(std::move(path)) {}
  ~Trace() { write(); }
  bool enabled() const { return !path_.empty(); }
  void add(const char* what, Clock::time_point begin, std::uint64_t bytes)
      EXCLUDES(mutex_);  // until now
  void abandon() { path_.clear(); }

 private:
  struct Event {
    const char* what;
    std::int64_t begin;  // nanoseconds of the monotonic clock
    std::int64_t end;
    std::uint64_t bytes;
    int thread;
  };
  void write() EXCLUDES(mutex_);

  std::string path_;
  Mutex mutex_;
  std::vector<Event> events_ GUARDED_BY(mutex_);
};

}  // namespace streamer::gpu
