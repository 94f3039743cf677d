#include "destination/cuda/trace.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace streamer::gpu {

void Trace::add(const char* what, Clock::time_point begin, std::uint64_t bytes) {
  if (!enabled()) return;
  const auto nanoseconds = [](Clock::time_point time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  };
  const Event event{what, nanoseconds(begin), nanoseconds(Clock::now()), bytes, gettid()};
  const MutexLock lock(mutex_);
  events_.push_back(event);
}

// The format that chrome://tracing and Perfetto read. Times are those of CLOCK_MONOTONIC.
void Trace::write() {
  if (!enabled()) return;
  const MutexLock lock(mutex_);
  std::FILE* const file = std::fopen(path_.c_str(), "w");
  if (file == nullptr) return;  // a failed trace does not fail the load
  std::fputs("{\"traceEvents\":[", file);
  const char* separator = "\n";
  for (const Event& event : events_) {
    std::fprintf(file,
                 "%s{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
                 "\"args\":{\"bytes\":%" PRIu64 "}}",
                 separator, event.what, getpid(), event.thread,
                 static_cast<double>(event.begin) / 1e3,
                 static_cast<double>(event.end - event.begin) / 1e3, event.bytes);
    separator = ",\n";
  }
  std::fputs("\n]}\n", file);
  std::fclose(file);
}

}  // namespace streamer::gpu
