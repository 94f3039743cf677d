// A flag that ends waits.
#pragma once

#include <atomic>

namespace streamer {

// Set once, by any thread; read by all that wait.
class CancelToken {
 public:
  void cancel() noexcept { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const noexcept { return cancelled_.load(std::memory_order_acquire); }

 private:
  std::atomic<bool> cancelled_{false};
};

}  // namespace streamer
