// The threads of a stream.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace streamer {

// Thread-safe. Threads have BlockedSignals.
class WorkerThreads {
 public:
  // Starts a thread that runs `body`. False if the system refuses one. Starts none, and returns
  // true, once end() was called.
  bool start(std::function<void()> body) EXCLUDES(mutex_);
  // Waits for threads whose bodies are about to return. After half a second, threads that the
  // storage blocks are left behind, but never while `writes` is above 0.
  void end(const std::atomic<int>& writes) EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  CondVar ended_;
  std::vector<std::thread> threads_ GUARDED_BY(mutex_);
  int running_ GUARDED_BY(mutex_) = 0;
  bool ending_ GUARDED_BY(mutex_) = false;
};

}  // namespace streamer
