// The readers of each kind of storage that the workers of a stream may have.
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

// A worker keeps its readers from one job to the next. If a memory limit bounds their number, there
// may be more workers than readers, because another kind of storage needs those: a worker without a
// reader then gets that of a worker that does not use it. Thread-safe.
class ReaderQuota {
 public:
  static constexpr int kNoLimit = std::numeric_limits<int>::max();

  explicit ReaderQuota(MemoryBudget& budget) : budget_(budget) {}

  // Of `bytes` each, and of `counted_by_reader` that they count themselves. Must come before the
  // first reader of that kind.
  void add_source(SourceKind kind, int most, std::uint64_t bytes,
                  std::uint64_t counted_by_reader = 0) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    Kind& of = kinds_[index(kind)];
    of.most = most;
    of.bytes = bytes;
    of.whole = bytes + counted_by_reader;
    fit_locked();
  }
  // An explicit limit has to hold a block of so many bytes beside the readers: there are fewer of
  // them from now on, but for one of each kind. Those in use end with their jobs.
  void make_room(std::uint64_t block) EXCLUDES(mutex_) {
    std::vector<std::unique_ptr<Reader>> dropped;  // end after the lock
    const MutexLock lock(mutex_);
    if (block > budget_.block()) {
      budget_.note_block(block);
      fit_locked();
    }
    for (Kind& of : kinds_) {
      while (!of.idle.empty() && ends_locked(of)) {
        dropped.push_back(std::move(of.idle.back()->reader));
        of.idle.pop_back();
        forget_locked(of);
      }
    }
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
    std::unique_ptr<Reader> dropped;  // ends after the lock
    const MutexLock lock(mutex_);
    if (!std::exchange(slot->in_use, false)) return;
    Kind& of = kinds_[index(kind)];
    if (slot->reader && ends_locked(of)) dropped = std::move(slot->reader);
    if (slot->reader) {
      of.idle.push_back(slot);
    } else {
      forget_locked(of);
    }
    ended_.notify_all();
  }
  // Takes the reader out of `slot`, used or not.
  std::unique_ptr<Reader> drop(SourceKind kind, ReaderSlot* slot) noexcept EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (!slot->in_use && !slot->reader) return nullptr;
    if (!std::exchange(slot->in_use, false)) std::erase(kinds_[index(kind)].idle, slot);
    forget_locked(kinds_[index(kind)]);
    ended_.notify_all();
    return std::move(slot->reader);
  }

 private:
  struct Kind {
    int most = kNoLimit;
    std::uint64_t bytes = 0;        // that are counted here
    std::uint64_t whole = 0;        // with those that readers count themselves
    int number = 0;                 // that there are, or are being made
    std::vector<ReaderSlot*> idle;  // has room for all of them
  };
  static std::size_t index(SourceKind kind) { return static_cast<std::size_t>(kind); }
  void forget_locked(Kind& of) REQUIRES(mutex_) {
    --of.number;
    budget_.reader_ended(of.bytes);
    note_surplus_locked();
  }
  // True if a reader of the kind should end rather than be kept.
  bool ends_locked(const Kind& of) const REQUIRES(mutex_) {
    return of.number > of.most || (of.most == kNoLimit && budget_.readers_exceed());
  }
  // Lowers the numbers of readers until the largest block fits beside them.
  void fit_locked() REQUIRES(mutex_) {
    const std::uint64_t room = budget_.limit() - std::min(budget_.limit(), budget_.block());
    const std::uint64_t wanted = whole_locked();
    if (budget_.block() == 0 || wanted == 0) return;
    if (wanted > room) {
      const double share = static_cast<double>(room) / static_cast<double>(wanted);
      for (Kind& of : kinds_) {
        if (of.most != kNoLimit) of.most = std::max(1, static_cast<int>(of.most * share));
      }
      budget_.set_aside(whole_locked());
    }
    note_surplus_locked();
  }
  // Bytes of all readers that there may be, of those kinds whose number is bounded.
  std::uint64_t whole_locked() const REQUIRES(mutex_) {
    std::uint64_t bytes = 0;
    for (const Kind& of : kinds_) {
      if (of.most != kNoLimit) bytes += static_cast<std::uint64_t>(of.most) * of.whole;
    }
    return bytes;
  }
  void note_surplus_locked() REQUIRES(mutex_) {
    int surplus = 0;
    for (const Kind& of : kinds_) surplus += std::max(0, of.number - of.most);
    budget_.note_surplus_readers(surplus);
  }

  MemoryBudget& budget_;
  mutable Mutex mutex_;
  CondVar ended_;
  std::array<Kind, kSourceKinds> kinds_ GUARDED_BY(mutex_);
};

}  // namespace streamer
