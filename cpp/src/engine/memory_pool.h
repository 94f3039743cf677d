// Host memory for blocks: reused while a stream lasts, owned by its holders.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/memory_budget.h"
#include "base/mutex.h"
#include "engine/address_space.h"
#include "engine/slabs.h"

namespace streamer {

// Learns when memory came back to the budget.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;
  virtual void memory_returned() = 0;
};

// Thread-safe. A buffer is allocated in two steps: reserve() chooses its memory and counts it
// against the budget, map() makes the system calls. Only the second step can take long, and it
// holds no lock.
//
// A buffer outlives the pool. When its last owner drops it, the pool keeps its memory for reuse;
// the memory is unmapped when the pool is closed or when the budget is needed for another size.
// Small buffers lie in slabs.
class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  // The count of one use of a buffer. It outlives the buffer, so that the count can be ended
  // without an owner of the buffer.
  class Lease {
   private:
    friend class MemoryPool;
    std::uint64_t counted_ = 0;  // bytes; under the pool's lock
  };
  class Buffer;
  class Reservation;

  static std::shared_ptr<MemoryPool> create(std::shared_ptr<MemoryBudget> budget,
                                            AddressSpace& space = AddressSpace::system()) {
    return std::shared_ptr<MemoryPool>(new MemoryPool(std::move(budget), space));
  }
  ~MemoryPool();

  void set_listener(std::weak_ptr<MemoryListener> listener) EXCLUDES(mutex_);

  // Reserves at least `bytes` (more than 0) of memory aligned to 64. None if the budget has no room
  // now, unless `force`. Even so none while memory that would make room is being released: the
  // listener learns when it was. Makes no system call.
  std::optional<Reservation> reserve(std::uint64_t bytes, Pages pages, bool force) EXCLUDES(mutex_);
  // The buffer of a reservation, uninitialised. Null if the system has no memory.
  std::shared_ptr<Buffer> map(Reservation reservation) EXCLUDES(mutex_);

  // The buffer's memory is the caller's from now on and counts no more. No effect if the buffer was
  // dropped before.
  void stop_counting(Lease& lease) EXCLUDES(mutex_);

  // Unmaps the memory that is kept for reuse; from now on nothing is kept.
  void close() EXCLUDES(mutex_);

  // For small memory that the pool does not count.
  const std::shared_ptr<Slabs>& slabs() const { return slabs_; }
  // Bytes that a buffer of `bytes` counts for.
  static std::uint64_t capacity_for(std::uint64_t bytes);

 private:
  // Mapped memory by its size. Nodes move between containers, so that nothing is allocated when
  // memory comes back.
  using Pieces = std::multimap<std::uint64_t, std::byte*>;

  MemoryPool(std::shared_ptr<MemoryBudget> budget, AddressSpace& space)
      : budget_(std::move(budget)), space_(space), slabs_(std::make_shared<Slabs>(space)) {}
  static Pieces::node_type make_node();
  bool reuse_locked(std::uint64_t capacity, Reservation* reservation) REQUIRES(mutex_);
  bool split_locked(std::uint64_t capacity, Reservation* reservation) REQUIRES(mutex_);
  bool join_locked(std::uint64_t capacity, Reservation* reservation) REQUIRES(mutex_);
  bool take_fresh_locked(std::uint64_t capacity, bool force, Reservation* reservation)
      REQUIRES(mutex_);
  void evict_locked(std::uint64_t bytes, Pieces* evicted) REQUIRES(mutex_);
  void keep_rest_locked(Pieces::node_type rest, Reservation* reservation) REQUIRES(mutex_);
  void unmap(const Pieces& pieces);
  std::byte* join(const Reservation& reservation);
  std::byte* take_fresh(const Reservation& reservation);
  void release(std::byte* data, std::uint64_t capacity);
  bool unmap_kept() EXCLUDES(mutex_);
  void abandon(Reservation* reservation) EXCLUDES(mutex_);
  void reclaim(Buffer* buffer) EXCLUDES(mutex_);

  const std::shared_ptr<MemoryBudget> budget_;
  AddressSpace& space_;
  const std::shared_ptr<Slabs> slabs_;
  const pid_t process_ = getpid();  // in a forked child another thread may hold the lock for ever

  Mutex mutex_;
  Pieces kept_ GUARDED_BY(mutex_);  // for reuse; counted
  std::weak_ptr<MemoryListener> listener_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
  std::uint64_t left_ GUARDED_BY(mutex_) = 0;       // buffers that became the caller's
  std::uint64_t returning_ GUARDED_BY(mutex_) = 0;  // counted bytes that are being released
};

// Memory of a block. Its destructor, in any thread, gives the memory back; it takes the locks of
// the pool and of the listener.
class MemoryPool::Buffer {
 public:
  explicit Buffer(std::shared_ptr<MemoryPool> pool) : pool_(std::move(pool)) {}
  ~Buffer() {
    if (data != nullptr) pool_->reclaim(this);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data = nullptr;
  std::uint64_t capacity = 0;  // bytes that count against the budget
  const std::shared_ptr<Lease> lease = std::make_shared<Lease>();

 private:
  friend class MemoryPool;
  const std::shared_ptr<MemoryPool> pool_;
  Pieces::node_type node_ = make_node();  // for the pool to keep the memory by
};

// Memory that counts against the budget and is not mapped yet. Goes back to the pool if it is
// dropped.
class MemoryPool::Reservation {
 public:
  Reservation(Reservation&&) noexcept = default;
  Reservation& operator=(Reservation&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    std::swap(pages_, other.pages_);
    std::swap(place_, other.place_);
    std::swap(capacity_, other.capacity_);
    std::swap(taken_, other.taken_);
    parts_.swap(other.parts_);
    discarded_.swap(other.discarded_);
    return *this;
  }
  ~Reservation() {
    if (buffer_ != nullptr) buffer_->pool_->abandon(this);
  }
  // True if map() has system calls to make.
  bool needs_system_calls() const { return buffer_->data == nullptr || !discarded_.empty(); }

 private:
  friend class MemoryPool;
  Reservation(std::shared_ptr<Buffer> buffer, Pages pages)
      : buffer_(std::move(buffer)), pages_(pages) {}
  std::shared_ptr<Buffer> buffer_;  // without data, unless a kept piece serves as it is
  Pages pages_;
  Place place_ = Place::kAligned;
  std::uint64_t capacity_ = 0;
  std::uint64_t taken_ = 0;  // of the budget, besides the pieces below
  Pieces parts_;             // become a part of the buffer
  Pieces discarded_;         // are unmapped before
};

}  // namespace streamer
