// Host memory for blocks: reused while a stream lasts, owned by whoever holds it.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "base/memory_budget.h"

namespace streamer {

// What fresh memory is made of. Huge pages let a device read in large pieces. Where the system has
// none at hand, one costs many times what small pages of its size do: what arrives through a socket
// does not need them.
enum class Pages { kSmall, kHuge };

// Told when memory came back to the budget.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;
  virtual void memory_returned() = 0;
};

// Thread-safe. A block outlives the pool that gave it; it is kept for reuse when its last owner
// drops it, and unmapped when the pool is closed or the budget is needed for another size.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  // What one use of memory counts for. It outlives the memory: whoever wants the count back need
  // not hold the memory itself, and perhaps be the last to drop it.
  class Lease {
   public:
    explicit Lease(std::uint64_t capacity) : counted_(capacity) {}

   private:
    friend class BlockPool;
    std::uint64_t counted_;  // bytes; under the pool's lock
  };
  struct Memory {
    std::byte* data = nullptr;
    std::uint64_t capacity = 0;  // bytes that count against the budget
    std::shared_ptr<Lease> lease;
  };

  static std::shared_ptr<BlockPool> create(std::shared_ptr<MemoryBudget> budget) {
    return std::shared_ptr<BlockPool>(new BlockPool(std::move(budget)));
  }
  ~BlockPool();

  void set_listener(std::weak_ptr<MemoryListener> listener);

  // At least `bytes` (more than 0) of memory aligned to 64, uninitialised. Null with
  // `*refused` false where the budget has no room now, unless `force`; null with `*refused` true
  // where the system has none.
  std::shared_ptr<Memory> allocate(std::uint64_t bytes, Pages pages, bool force, bool* refused);

  // The memory is the caller's from now on and counts no more. Nothing where it was dropped.
  void uncount(Lease& lease);

  // Frees what is kept for reuse; from now on nothing is kept.
  void close();

  // Bytes that a block of `bytes` counts for.
  static std::uint64_t capacity_for(std::uint64_t bytes);

 private:
  explicit BlockPool(std::shared_ptr<MemoryBudget> budget) : budget_(std::move(budget)) {}
  std::shared_ptr<Memory> wrap(std::byte* data, std::uint64_t capacity);
  std::shared_ptr<Memory> reuse_locked(std::uint64_t capacity, Pages pages);
  std::byte* split_locked(std::uint64_t capacity);
  std::byte* join_locked(std::uint64_t capacity, Pages pages);
  void keep_locked(std::byte* data, std::uint64_t capacity);
  void reclaim(Memory* memory);
  void evict_locked(std::uint64_t bytes);

  const std::shared_ptr<MemoryBudget> budget_;
  const pid_t process_ = getpid();  // in a forked child the lock may be held for ever
  std::mutex mutex_;
  std::multimap<std::uint64_t, std::byte*> kept_;  // by capacity; counted
  std::weak_ptr<MemoryListener> listener_;
  bool closed_ = false;
};

}  // namespace streamer
