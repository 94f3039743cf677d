// Slots of pinned host memory: registered with the driver once, reused for copy after copy.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/clock.h"
#include "base/memory_budget.h"
#include "base/mutex.h"
#include "destination/cuda/context.h"

namespace streamer::gpu {

struct PinnedSlot {
  std::byte* memory = nullptr;  // starts a page
  std::uint64_t mapped = 0;     // bytes of `memory`, all registered
  std::uint64_t size = 0;       // bytes that fit behind any `start`
  std::uint64_t start = 0;      // offset of the bytes, below kDirectAlignment
  Event event = nullptr;        // marks the end of the slot's copies
  std::uint32_t lane = 0;       // number of the copy stream
  bool copying = false;         // the pool's
  Clock::time_point since;      // the time it was taken, for a trace
};

// Thread-safe. Slots are made when they are first needed, as few as keep readers and copies busy:
// readers that wait because the link is the limit do not make the pool grow.
class PinnedPool {
 public:
  // The memory budget bounds them, too. It may grow: it follows files that are opened later.
  struct Limits {
    std::uint64_t bytes = 0;       // most that is pinned at once, one slot always excepted
    std::uint64_t least_slot = 0;  // bounds of the most bytes of one slot
    std::uint64_t most_slot = 0;
    std::uint64_t copying_enough = 0;  // bytes in flight to the device that keep it busy
  };
  PinnedPool(const DeviceContext& context, MemoryBudget& budget, Limits limits);
  // Every slot must be back, or given up. Frees the rest.
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  // Most bytes of one slot. At least four fit, if that can be: one is read into while others are
  // copied from. It never falls.
  std::uint64_t max_slot() const;
  // Waits for a slot of at least `bytes`, which is at most max_slot(). kCancelled after `cancel`;
  // the status given to fail() once there is one.
  Result<PinnedSlot*> take(std::uint64_t bytes, const CancelToken& cancel) EXCLUDES(mutex_);
  void give_back(PinnedSlot* slot) EXCLUDES(mutex_);
  // From now on pins at most this part of the bytes that it may pin. Slots beyond it are freed when
  // they are back.
  void share(std::uint64_t pools) EXCLUDES(mutex_);
  // The slot's bytes are on their way to the device; give_back() ends that.
  void copying(PinnedSlot& slot) EXCLUDES(mutex_);
  // The device may still read the slot: it is never used again and its memory never freed.
  void give_up(PinnedSlot* slot) EXCLUDES(mutex_);
  // Every take() from now on fails with `status`.
  void fail(const Status& status) EXCLUDES(mutex_);

  std::uint64_t pinned_peak() const EXCLUDES(mutex_);
  std::string growth_stopped() const
      EXCLUDES(mutex_);  // the reason if the pool is smaller than it could be; mostly empty

 private:
  Result<std::unique_ptr<PinnedSlot>> make(std::uint64_t bytes, std::uint32_t lane);
  void destroy(PinnedSlot& slot);
  bool may_grow(std::uint64_t bytes) REQUIRES(mutex_);
  // Bytes of slots that there may be: this pool's share.
  std::uint64_t most_locked() const REQUIRES(mutex_) { return most_bytes() / pools_; }
  std::uint64_t most_bytes() const { return std::min(limits_.bytes, budget_.limit()); }
  void erase(const PinnedSlot& slot) REQUIRES(mutex_);
  void free_one() REQUIRES(mutex_);

  const DeviceContext& context_;
  MemoryBudget& budget_;
  const Limits limits_;
  mutable Mutex mutex_;
  CondVar freed_;
  std::vector<std::unique_ptr<PinnedSlot>> slots_ GUARDED_BY(mutex_);
  std::vector<PinnedSlot*> free_ GUARDED_BY(mutex_);  // has room for all
  std::uint64_t pools_ GUARDED_BY(mutex_) = 1;        // that share the bytes that may be pinned
  std::uint64_t pinned_ GUARDED_BY(mutex_) =
      0;  // bytes of slots, those that are being made included
  std::uint64_t pinned_now_ GUARDED_BY(mutex_) = 0;  // without those
  std::uint64_t peak_ GUARDED_BY(mutex_) = 0;        // of pinned_now_
  std::uint64_t copying_ GUARDED_BY(mutex_) = 0;
  std::uint32_t made_ GUARDED_BY(mutex_) = 0;
  std::string growth_stopped_ GUARDED_BY(mutex_);
  Status failure_ GUARDED_BY(mutex_);
};

}  // namespace streamer::gpu
