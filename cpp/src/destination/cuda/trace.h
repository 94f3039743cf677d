// When each slot was read into and copied from, for whoever wants to see that they overlap.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"

namespace streamer::gpu {

// Thread-safe. Collects nothing unless it has a file to write to.
class Trace {
 public:
  explicit Trace(std::string path) : path_(std::move(path)) {}
  ~Trace() { write(); }
  bool enabled() const { return !path_.empty(); }
  void add(const char* what, Clock::time_point begin, std::uint64_t bytes);  // until now
  void abandon() { path_.clear(); }

 private:
  struct Event {
    const char* what;
    std::int64_t begin;  // nanoseconds of the monotonic clock
    std::int64_t end;
    std::uint64_t bytes;
    int thread;
  };
  void write() const;

  std::string path_;
  std::mutex mutex_;
  std::vector<Event> events_;
};

}  // namespace streamer::gpu
