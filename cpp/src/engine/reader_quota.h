// How many readers of each kind of storage the workers of a stream may have.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "base/memory_budget.h"
#include "base/mutex.h"
#include "source/source.h"

namespace streamer {

// A worker's reader of one kind of storage.
struct ReaderSlot {
  std::unique_ptr<Reader> reader;
  bool in_use = false;
};

// A worker keeps its readers from one job to the next. Where a memory limit bounds their number,
// there may be more workers than readers, because another kind of storage needs those: a worker
// without a reader then gets that of a worker that does not use it. Thread-safe.
class ReaderQuota {
 public:
  static constexpr int kNoLimit = std::numeric_limits<int>::max();

  explicit ReaderQuota(MemoryBudget& budget) : budget_(budget) {}

  // Of `bytes` each. Must come before the first reader of that kind.
  void add_source(SourceKind kind, int most, std::uint64_t bytes) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    kinds_[index(kind)].most = most;
    kinds_[index(kind)].bytes = bytes;
  }
  int most(SourceKind kind) const EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return kinds_[index(kind)].most;
  }

  // Begins the use of `slot`. If it has no reader, one is moved there, or the caller makes one:
  // true. Waits if all readers of the kind are in use: their users wait for no other reader of
  // that kind.
  bool begin(SourceKind kind, ReaderSlot* slot) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    Kind& of = kinds_[index(kind)];
    if (slot->in_use) return false;
    if (slot->reader) {
      std::erase(of.idle, slot);
      slot->in_use = true;
      return false;
    }
    while (of.number >= of.most && of.idle.empty()) ended_.wait(mutex_);
    const bool another = of.number < of.most;
    if (another) {
      of.idle.reserve(static_cast<std::size_t>(of.number) + 1);
      ++of.number;
      budget_.take_for_reader(of.bytes);
    } else {
      slot->reader = std::move(of.idle.back()->reader);
      of.idle.pop_back();
    }
    slot->in_use = true;
    return another;
  }
  // Ends the use of `slot`; without a reader, others may make one in its place.
  void end(SourceKind kind, ReaderSlot* slot) noexcept EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (!std::exchange(slot->in_use, false)) return;
    if (slot->reader) {
      kinds_[index(kind)].idle.push_back(slot);
    } else {
      forget_locked(kind);
    }
    ended_.notify_all();
  }
  // Takes the reader out of `slot`, used or not.
  std::unique_ptr<Reader> drop(SourceKind kind, ReaderSlot* slot) noexcept EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (!slot->in_use && !slot->reader) return nullptr;
    if (!std::exchange(slot->in_use, false)) std::erase(kinds_[index(kind)].idle, slot);
    forget_locked(kind);
    ended_.notify_all();
    return std::move(slot->reader);
  }

 private:
  struct Kind {
    int most = kNoLimit;
    std::uint64_t bytes = 0;
    int number = 0;                 // that there are, or are being made
    std::vector<ReaderSlot*> idle;  // has room for all of them
  };
  static std::size_t index(SourceKind kind) { return static_cast<std::size_t>(kind); }
  void forget_locked(SourceKind kind) REQUIRES(mutex_) {
    --kinds_[index(kind)].number;
    budget_.reader_ended(kinds_[index(kind)].bytes);
  }

  MemoryBudget& budget_;
  mutable Mutex mutex_;
  CondVar ended_;
  std::array<Kind, kSourceKinds> kinds_ GUARDED_BY(mutex_);
};

}  // namespace streamer
