#include "engine/worker_threads.h"

#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#include "base/blocked_signals.h"
#include "base/clock.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kEndWithin{500};
constexpr milliseconds kBetweenLooks{20};  // at the writes, whose end is not reported

}  // namespace

bool WorkerThreads::start(std::function<void()> body) {
  const MutexLock lock(mutex_);
  if (ending_) return true;
  const BlockedSignals blocked;
  try {
    threads_.emplace_back([this, body = std::move(body)] {
      body();
      const MutexLock ending(mutex_);
      --running_;
      ended_.notify_all();
    });
  } catch (const std::system_error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  ++running_;
  return true;
}

void WorkerThreads::end(const std::atomic<int>& writes) {
  std::vector<std::thread> threads;
  bool all = false;
  {
    const MutexLock lock(mutex_);
    ending_ = true;
    const auto deadline = Clock::now() + kEndWithin;
    while (running_ > 0 && (writes > 0 || Clock::now() < deadline)) {
      ended_.wait_until(mutex_, Clock::now() + kBetweenLooks);
    }
    all = running_ == 0;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) {
    if (all) {
      thread.join();
    } else {
      thread.detach();
    }
  }
}

}  // namespace streamer
