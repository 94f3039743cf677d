// Memory for small buffers.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/memory_units.h"
#include "base/mutex.h"
#include "engine/address_space.h"

namespace streamer {

// Thread-safe. Cuts small pieces from mapped slabs, one behind the other. malloc() is no place for
// them: its arenas, one for each worker, keep memory that other threads free.
//
// Buffers are dropped about in their order, so that slabs become empty as wholes and are used
// again. A page in which no piece lies goes back to the system even if the slab is in use.
class Slabs {
 public:
  static constexpr std::uint64_t kSlab = kMiB;
  // Pages without a piece that are kept for reuse, at most, besides those of one slab.
  static constexpr std::uint64_t kMostIdle = 4 * kMiB;

  explicit Slabs(AddressSpace& space) : space_(space) {}
  ~Slabs();
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  // `bytes` of uninitialised memory, a multiple of 64 and at most kSlab. Null if the system has no
  // memory.
  std::byte* allocate(std::uint64_t bytes) noexcept EXCLUDES(mutex_);
  void release(std::byte* data, std::uint64_t bytes) noexcept EXCLUDES(mutex_);
  // Gives back what is kept for reuse; from now on nothing is kept.
  void close() noexcept EXCLUDES(mutex_);

 private:
  struct Slab {
    std::unique_ptr<std::uint16_t[]> pieces;  // that lie in each page, also in a part of it
    std::uint64_t filled = 0;                 // bytes; pieces never lie behind them
    std::uint64_t live = 0;                   // pieces
    std::uint64_t idle = 0;                   // bytes of pages without a piece that may be resident
  };
  using ByAddress = std::map<std::byte*, Slab>;  // nodes move: nothing is allocated on release

  bool next_slab_locked() REQUIRES(mutex_);
  void give_back_idle_locked() REQUIRES(mutex_);

  AddressSpace& space_;
  const pid_t process_ = getpid();  // in a forked child another thread may hold the lock for ever

  Mutex mutex_;
  ByAddress used_ GUARDED_BY(mutex_);
  ByAddress spare_ GUARDED_BY(mutex_);  // empty
  ByAddress::iterator current_ GUARDED_BY(mutex_) = used_.end();
  std::uint64_t idle_ GUARDED_BY(mutex_) = 0;  // of all slabs
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace streamer
