#include "engine/block_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "base/memory_map.h"
#include "base/memory_units.h"

namespace streamer {
namespace {

// Smaller memory comes from malloc, which reuses it by itself.
constexpr std::uint64_t kMapThreshold = 256 * kKiB;

// Whether memory of this capacity starts where a huge page can: 2 MiB of it, in one page or many,
// then change their place in the address space by one entry of the page tables.
bool is_huge(std::uint64_t capacity) { return capacity >= 2 * kHugePage; }

std::byte* map_huge(std::uint64_t capacity, Pages pages) {
  std::byte* const start = map_aligned_memory(capacity);
  if (start != nullptr && pages == Pages::kHuge) madvise(start, capacity, MADV_HUGEPAGE);
  return start;
}

std::byte* obtain(std::uint64_t capacity, Pages pages) {
  if (is_huge(capacity)) return map_huge(capacity, pages);
  if (capacity < kMapThreshold) {
    return static_cast<std::byte*>(std::aligned_alloc(64, capacity));
  }
  return map_memory(capacity);
}

void release(std::byte* data, std::uint64_t capacity) {
  if (capacity < kMapThreshold) {
    std::free(data);
  } else {
    unmap_memory(data, capacity);
  }
}

}  // namespace

std::uint64_t BlockPool::capacity_for(std::uint64_t bytes) {
  return round_up(bytes, bytes < kMapThreshold - page_size() ? 64 : page_size());
}

BlockPool::~BlockPool() { close(); }

void BlockPool::set_listener(std::weak_ptr<MemoryListener> listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

std::shared_ptr<BlockPool::Memory> BlockPool::allocate(std::uint64_t bytes, Pages pages, bool force,
                                                       bool* refused) {
  *refused = false;
  const std::uint64_t capacity = capacity_for(bytes);
  {
    const std::lock_guard lock(mutex_);
    if (auto memory = reuse_locked(capacity, pages)) return memory;
    if (!budget_->try_take(capacity)) {
      evict_locked(capacity);
      if (!budget_->try_take(capacity)) {
        if (!force) return nullptr;
        budget_->take(capacity);
      }
    }
  }
  std::byte* data = obtain(capacity, pages);
  if (data == nullptr) {
    const std::lock_guard lock(mutex_);
    evict_locked(MemoryBudget::kUnlimited);
    data = obtain(capacity, pages);
  }
  if (data == nullptr) {
    budget_->give_back(capacity);
    *refused = true;
    return nullptr;
  }
  return wrap(data, capacity);
}

// Fresh pages cost more than bytes that are read into them, so that kept memory of other sizes is
// cut and joined first.
std::shared_ptr<BlockPool::Memory> BlockPool::reuse_locked(std::uint64_t capacity, Pages pages) {
  // Up to a quarter may be wasted.
  const std::uint64_t most = capacity + capacity / 4;
  if (auto it = kept_.lower_bound(capacity); it != kept_.end() && it->first <= most) {
    it = std::prev(kept_.upper_bound(it->first));  // dropped last: the likeliest to be in a cache
    const auto [capacity_kept, data] = *it;
    kept_.erase(it);
    return wrap(data, capacity_kept);
  }
  const std::uint64_t whole = round_up(capacity, kHugePage);
  if (!is_huge(capacity) || whole > most || kept_.empty()) return nullptr;
  std::byte* data = kept_.rbegin()->first > whole ? split_locked(whole) : join_locked(whole, pages);
  return data == nullptr ? nullptr : wrap(data, whole);
}

void BlockPool::keep_locked(std::byte* data, std::uint64_t capacity) {
  if (capacity >= kMapThreshold) {
    kept_.emplace(capacity, data);
  } else if (capacity > 0) {
    unmap_memory(data, capacity);
    budget_->give_back(capacity);
  }
}

// The front of the smallest kept block that is large enough.
std::byte* BlockPool::split_locked(std::uint64_t capacity) {
  const auto it = kept_.lower_bound(capacity);
  const auto [capacity_kept, data] = *it;
  kept_.erase(it);
  keep_locked(data + capacity, capacity_kept - capacity);
  return data;
}

// Kept blocks that are too small, moved to stand one behind the other (no byte is copied), and
// fresh memory for the rest. Null where there are none, or no budget for the rest.
std::byte* BlockPool::join_locked(std::uint64_t capacity, Pages pages) {
  std::uint64_t found = 0;
  for (auto it = kept_.rbegin(); it != kept_.rend() && is_huge(it->first); ++it) {
    found += round_down(it->first, kHugePage);
  }
  if (found == 0) return nullptr;
  const std::uint64_t fresh = capacity - std::min(capacity, found);
  if (fresh > 0 && !budget_->try_take(fresh)) return nullptr;
  std::byte* start = map_huge(capacity, pages);
  std::uint64_t moved = 0;
  while (start != nullptr && moved < capacity - fresh) {
    const auto [capacity_kept, data] = *kept_.rbegin();
    const std::uint64_t part = std::min(capacity - moved, round_down(capacity_kept, kHugePage));
    if (mremap(data, part, part, MREMAP_MAYMOVE | MREMAP_FIXED, start + moved) == MAP_FAILED) {
      unmap_memory(start, capacity);
      budget_->give_back(moved);
      start = nullptr;
      break;
    }
    kept_.erase(std::prev(kept_.end()));
    keep_locked(data + part, capacity_kept - part);
    moved += part;
  }
  if (start == nullptr) budget_->give_back(fresh);
  return start;
}

std::shared_ptr<BlockPool::Memory> BlockPool::wrap(std::byte* data, std::uint64_t capacity) {
  auto self = shared_from_this();
  return std::shared_ptr<Memory>(new Memory{data, capacity, std::make_shared<Lease>(capacity)},
                                 [self](Memory* dropped) { self->reclaim(dropped); });
}

void BlockPool::uncount(Lease& lease) {
  const std::lock_guard lock(mutex_);
  budget_->give_back(std::exchange(lease.counted_, 0));
}

void BlockPool::reclaim(Memory* memory) {
  const std::unique_ptr<Memory> owned(memory);
  if (getpid() != process_) {
    release(memory->data, memory->capacity);
    return;
  }
  std::shared_ptr<MemoryListener> listener;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t counted = std::exchange(memory->lease->counted_, 0);
    const bool keep = !closed_ && memory->capacity >= kMapThreshold &&
                      (counted > 0 || budget_->try_take(memory->capacity));
    if (keep) {
      kept_.emplace(memory->capacity, memory->data);
    } else {
      release(memory->data, memory->capacity);
      budget_->give_back(counted);
    }
    listener = listener_.lock();
  }
  if (listener) listener->memory_returned();
}

void BlockPool::evict_locked(std::uint64_t bytes) {
  std::uint64_t freed = 0;
  while (freed < bytes && !kept_.empty()) {
    const auto it = std::prev(kept_.end());
    release(it->second, it->first);
    budget_->give_back(it->first);
    freed += it->first;
    kept_.erase(it);
  }
}

void BlockPool::close() {
  if (getpid() != process_) return;
  const std::lock_guard lock(mutex_);
  closed_ = true;
  listener_.reset();
  evict_locked(MemoryBudget::kUnlimited);
}

}  // namespace streamer
