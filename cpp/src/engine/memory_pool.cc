#include "engine/memory_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/memory_units.h"

namespace streamer {
namespace {

// A process may have 65,530 mappings (vm.max_map_count).
constexpr std::uint64_t kFewLeft = 16;

// Smaller buffers lie in slabs, and are not kept.
constexpr std::uint64_t kMapThreshold = 256 * kKiB;

template <typename Pieces>
std::uint64_t total(const Pieces& pieces) {
  std::uint64_t bytes = 0;
  for (const auto& [size, data] : pieces) bytes += size;
  return bytes;
}

}  // namespace

std::uint64_t MemoryPool::capacity_for(std::uint64_t bytes) {
  return round_up(bytes, bytes < kMapThreshold - page_size() ? 64 : page_size());
}

MemoryPool::~MemoryPool() { close(); }

void MemoryPool::set_listener(std::weak_ptr<MemoryListener> listener) {
  const MutexLock lock(mutex_);
  listener_ = std::move(listener);
}

MemoryPool::Pieces::node_type MemoryPool::make_node() {
  Pieces pieces;
  return pieces.extract(pieces.emplace(0, nullptr));
}

std::optional<MemoryPool::Reservation> MemoryPool::reserve(std::uint64_t bytes, Pages pages,
                                                           bool force) {
  const std::uint64_t capacity = capacity_for(bytes);
  // Everything that may throw comes before anything is counted. No destructor that takes a lock
  // runs under one.
  Reservation reservation(std::make_shared<Buffer>(shared_from_this()), pages);
  {
    const MutexLock lock(mutex_);
    // Buffers that the caller keeps are not moved any more, and would have a mapping each.
    if (left_ >= kFewLeft) reservation.place_ = Place::kContiguous;
    // Fresh pages cost more than reading bytes into them does, so that kept memory of other sizes
    // is split and joined first.
    if (reuse_locked(capacity, &reservation) || split_locked(capacity, &reservation) ||
        join_locked(capacity, &reservation) || take_fresh_locked(capacity, force, &reservation)) {
      Buffer& buffer = *reservation.buffer_;
      buffer.capacity = buffer.lease->counted_ = reservation.capacity_;
      return reservation;
    }
  }
  return std::nullopt;
}

// A kept piece as it is; up to a quarter of it may be wasted.
bool MemoryPool::reuse_locked(std::uint64_t capacity, Reservation* reservation) {
  auto it = kept_.lower_bound(capacity);
  if (it == kept_.end() || it->first > capacity + capacity / 4) return false;
  it = std::prev(kept_.upper_bound(it->first));  // dropped last: most likely in a processor's cache
  Buffer& buffer = *reservation->buffer_;
  buffer.data = it->second;
  reservation->capacity_ = it->first;
  buffer.node_ = kept_.extract(it);
  return true;
}

namespace {

// The size that a buffer of `capacity` has if it is made of kept pieces; 0: it can't be.
std::uint64_t size_of_pieces(std::uint64_t capacity) {
  const std::uint64_t whole = round_up(capacity, kHugePage);
  return starts_at_huge_page(capacity) && whole <= capacity + capacity / 4 ? whole : 0;
}

}  // namespace

// The front of a kept piece that is larger.
bool MemoryPool::split_locked(std::uint64_t capacity, Reservation* reservation) {
  const std::uint64_t whole = size_of_pieces(capacity);
  if (whole == 0) return false;
  const auto it = kept_.lower_bound(whole);
  if (it == kept_.end()) return false;
  Buffer& buffer = *reservation->buffer_;
  buffer.data = it->second;
  reservation->capacity_ = whole;
  Pieces::node_type rest = kept_.extract(it);
  rest.key() -= whole;
  rest.mapped() += whole;
  keep_rest_locked(std::move(rest), reservation);
  return true;
}

// Kept pieces that are too small, one behind the other, and fresh memory for the rest.
bool MemoryPool::join_locked(std::uint64_t capacity, Reservation* reservation) {
  const std::uint64_t whole = size_of_pieces(capacity);
  if (whole == 0) return false;
  std::uint64_t found = 0;
  for (auto it = kept_.rbegin(); it != kept_.rend() && starts_at_huge_page(it->first); ++it) {
    found += round_down(it->first, kHugePage);
  }
  if (found == 0) return false;
  const std::uint64_t fresh = whole - std::min(whole, found);
  if (fresh > 0 && !budget_->try_take(fresh)) return false;
  reservation->capacity_ = whole;
  reservation->taken_ = fresh;
  for (std::uint64_t left = whole - fresh; left > 0;) {
    const auto it = std::prev(kept_.end());
    const std::uint64_t part = std::min(left, round_down(it->first, kHugePage));
    Pieces::node_type rest = part < it->first ? make_node() : Pieces::node_type();
    Pieces::node_type piece = kept_.extract(it);
    if (rest) {
      rest.key() = piece.key() - part;
      rest.mapped() = piece.mapped() + part;
      keep_rest_locked(std::move(rest), reservation);
      piece.key() = part;
    }
    reservation->parts_.insert(std::move(piece));
    left -= part;
  }
  return true;
}

// Memory that the process does not have yet; if the budget is full, in exchange for kept pieces.
bool MemoryPool::take_fresh_locked(std::uint64_t capacity, bool force, Reservation* reservation) {
  reservation->capacity_ = capacity;
  std::uint64_t missing = capacity;
  if (!budget_->try_take(missing)) {
    if (!force && budget_->room() + total(kept_) < capacity) return false;
    evict_locked(capacity, &reservation->discarded_);
    missing -= std::min(missing, total(reservation->discarded_));
    if (missing > 0 && !budget_->try_take(missing)) {
      if (!force || returning_ > 0) return false;
      budget_->take(missing);
    }
  }
  reservation->taken_ = missing;
  return true;
}

// Moves `bytes` of kept memory, or all of it, to `evicted`: of the smallest piece that has enough,
// else of the largest ones. The rest of a piece stays.
void MemoryPool::evict_locked(std::uint64_t bytes, Pieces* evicted) {
  for (std::uint64_t freed = 0; freed < bytes && !kept_.empty();) {
    const std::uint64_t needed = bytes - freed;
    auto it = kept_.lower_bound(needed);
    if (it == kept_.end()) it = std::prev(it);
    const std::uint64_t unit = starts_at_huge_page(it->first) ? kHugePage : page_size();
    const std::uint64_t head = round_down(it->first - std::min(it->first, needed), unit);
    Pieces::node_type rest = head >= kMapThreshold ? make_node() : Pieces::node_type();
    Pieces::node_type piece = kept_.extract(it);
    if (rest) {
      rest.key() = head;
      rest.mapped() = piece.mapped();
      kept_.insert(std::move(rest));
      piece.key() -= head;
      piece.mapped() += head;
    }
    freed += piece.key();
    evicted->insert(std::move(piece));
  }
}

void MemoryPool::keep_rest_locked(Pieces::node_type rest, Reservation* reservation) {
  if (rest.key() == 0) return;
  Pieces& pieces = rest.key() >= kMapThreshold ? kept_ : reservation->discarded_;
  pieces.insert(std::move(rest));
}

std::shared_ptr<MemoryPool::Buffer> MemoryPool::map(Reservation reservation) {
  std::shared_ptr<Buffer> buffer = std::move(reservation.buffer_);
  unmap(reservation.discarded_);
  const std::uint64_t kept = buffer->data != nullptr ? reservation.capacity_ : 0;
  budget_->give_back(kept + total(reservation.parts_) + total(reservation.discarded_) +
                     reservation.taken_ - reservation.capacity_);
  if (buffer->data != nullptr) return buffer;
  std::byte* data = reservation.parts_.empty() ? nullptr : join(reservation);
  if (data == nullptr) data = take_fresh(reservation);
  if (data == nullptr && unmap_kept()) data = take_fresh(reservation);
  if (data == nullptr) {
    stop_counting(*buffer->lease);
    return nullptr;
  }
  buffer->data = data;
  return buffer;
}

// Null: the parts could not be moved, and were unmapped.
std::byte* MemoryPool::join(const Reservation& reservation) {
  std::byte* const start = take_fresh(reservation);
  std::uint64_t moved = 0;
  bool failed = start == nullptr;
  for (const auto& [size, data] : reservation.parts_) {
    failed = failed || !space_.move(data, size, start + moved);
    if (failed) {
      space_.unmap(data, size);
    } else {
      moved += size;
    }
  }
  if (!failed) return start;
  if (start != nullptr) release(start, reservation.capacity_);
  return nullptr;
}

std::byte* MemoryPool::take_fresh(const Reservation& reservation) {
  const std::uint64_t capacity = reservation.capacity_;
  if (capacity < kMapThreshold) return slabs_->allocate(capacity);
  return space_.map(capacity, reservation.pages_, reservation.place_);
}

void MemoryPool::release(std::byte* data, std::uint64_t capacity) {
  if (capacity < kMapThreshold) {
    slabs_->release(data, capacity);
  } else {
    space_.release(data, capacity);
  }
}

void MemoryPool::unmap(const Pieces& pieces) {
  for (const auto& [size, data] : pieces) space_.unmap(data, size);
}

// True if there was any.
bool MemoryPool::unmap_kept() {
  Pieces pieces;
  {
    const MutexLock lock(mutex_);
    pieces.swap(kept_);
  }
  unmap(pieces);
  budget_->give_back(total(pieces));
  return !pieces.empty();
}

void MemoryPool::abandon(Reservation* reservation) {
  const std::shared_ptr<Buffer> buffer = std::move(reservation->buffer_);
  Pieces pieces = std::move(reservation->discarded_);
  pieces.merge(reservation->parts_);
  {
    const MutexLock lock(mutex_);
    if (buffer->data == nullptr) buffer->lease->counted_ = 0;
    while (!closed_ && !pieces.empty() && pieces.rbegin()->first >= kMapThreshold) {
      kept_.insert(pieces.extract(std::prev(pieces.end())));
    }
  }
  unmap(pieces);
  budget_->give_back(total(pieces) + reservation->taken_);
}

void MemoryPool::stop_counting(Lease& lease) {
  const MutexLock lock(mutex_);
  if (lease.counted_ == 0) return;
  ++left_;
  budget_->give_back(std::exchange(lease.counted_, 0));
}

void MemoryPool::reclaim(Buffer* buffer) {
  if (getpid() != process_) {
    release(buffer->data, buffer->capacity);
    return;
  }
  std::shared_ptr<MemoryListener> listener;
  std::uint64_t counted = 0;
  bool keep = false;
  {
    const MutexLock lock(mutex_);
    counted = std::exchange(buffer->lease->counted_, 0);
    keep = !closed_ && buffer->capacity >= kMapThreshold &&
           (counted > 0 || budget_->try_take(buffer->capacity));
    if (keep) {
      buffer->node_.key() = buffer->capacity;
      buffer->node_.mapped() = buffer->data;
      kept_.insert(std::move(buffer->node_));
    } else {
      returning_ += counted;
    }
    listener = listener_.lock();
  }
  if (!keep) {
    release(buffer->data, buffer->capacity);
    const MutexLock lock(mutex_);
    budget_->give_back(counted);
    returning_ -= counted;
  }
  if (listener) listener->memory_returned();
}

void MemoryPool::close() {
  if (getpid() != process_) return;
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    listener_.reset();
  }
  slabs_->close();
  unmap_kept();
}

}  // namespace streamer
