#include "destination/cuda/pinned_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <new>
#include <utility>

#include "base/memory_map.h"
#include "base/memory_units.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace streamer::gpu {
namespace {

constexpr std::uint64_t kLeastSlot = 64 * kKiB;

// Bytes to map for a slot of `bytes`.
std::uint64_t mapped_bytes(std::uint64_t bytes) {
  return round_up(std::bit_ceil(std::max(bytes, kLeastSlot)) + kDirectAlignment, page_size());
}

// Memory in huge pages if the system has them: it finds and pins them many times faster.
std::byte* map_slot(std::uint64_t bytes) {
  const bool huge = bytes >= kHugePage;
  std::byte* const data = huge ? map_aligned_memory(bytes) : map_memory(bytes);
  if (data == nullptr) return nullptr;
  if (huge) madvise(data, bytes, MADV_HUGEPAGE);
  // A child has no use for it, and must not make the parent's writes go to a copy.
  madvise(data, bytes, MADV_DONTFORK);
  madvise(data, bytes, MADV_POPULATE_WRITE);
  return data;
}

}  // namespace

PinnedPool::PinnedPool(const DeviceContext& context, MemoryBudget& budget, Limits limits)
    : context_(context), budget_(budget), limits_(limits) {}

std::uint64_t PinnedPool::max_slot() const {
  return std::bit_floor(std::clamp(most_bytes() / 4, limits_.least_slot, limits_.most_slot));
}

PinnedPool::~PinnedPool() {
  for (const auto& slot : slots_) {
    destroy(*slot);
    budget_.give_back(slot->mapped);
  }
}

Result<std::unique_ptr<PinnedSlot>> PinnedPool::make(std::uint64_t bytes, std::uint32_t lane) {
  auto slot = std::make_unique<PinnedSlot>();
  slot->mapped = bytes;
  slot->size = bytes - kDirectAlignment;
  slot->lane = lane;
  slot->memory = map_slot(bytes);
  if (slot->memory == nullptr) {
    return Status::error(Code::kOutOfMemory, std::to_string(bytes) +
                                                 " bytes of host memory for copies to " +
                                                 context_.name() + " can't be allocated")
        .with_errno(errno);
  }
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  int code = guard.code();
  if (code == kSuccess) code = driver.host_register(slot->memory, bytes, kHostRegisterPortable);
  if (code == kSuccess) {
    code = driver.event_create(&slot->event, kEventDisableTiming);
    if (code != kSuccess) driver.host_unregister(slot->memory);
  }
  if (code == kSuccess) return slot;
  unmap_memory(slot->memory, bytes);
  Status status = driver.error(code, std::to_string(bytes) +
                                         " bytes of host memory can't be pinned for copies to " +
                                         context_.name());
  if (code != kOutOfMemory) return status;
  const ErrorDetail& detail = status.detail();
  return Status::error(Code::kOutOfMemory, detail.message)
      .with_http(0, detail.server_code, detail.server_message, "")
      .with_hint("Free host memory, or lower RUNAI_STREAMER_CUDA_PINNED_LIMIT");
}

void PinnedPool::destroy(PinnedSlot& slot) {
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  // In a context that has failed these fail too, and the device reads nothing any more.
  driver.event_destroy(slot.event);
  driver.host_unregister(slot.memory);
  unmap_memory(slot.memory, slot.mapped);
}

void PinnedPool::erase(const PinnedSlot& slot) {
  std::erase_if(slots_, [&](const auto& other) { return other.get() == &slot; });
}

// True if a slot of `bytes` may be made now; if so they are counted.
bool PinnedPool::may_grow(std::uint64_t bytes) {
  if (pinned_ == 0) {
    budget_.take(bytes);  // copies need at least one slot
  } else if (!growth_stopped_.empty() || copying_ >= limits_.copying_enough ||
             pinned_ + bytes > most_locked() || !budget_.try_take(bytes)) {
    return false;
  }
  pinned_ += bytes;
  return true;
}

Result<PinnedSlot*> PinnedPool::take(std::uint64_t bytes, const CancelToken& cancel) {
  MutexLock lock(mutex_);
  for (;;) {
    if (!failure_.ok()) return failure_;
    if (cancel.cancelled()) {
      return Status::error(Code::kCancelled,
                           "the stream was closed while waiting for pinned memory");
    }
    // The most recently used slot is the one that is still in the processor's cache.
    const auto fit = std::find_if(free_.rbegin(), free_.rend(),
                                  [&](const PinnedSlot* slot) { return slot->size >= bytes; });
    if (fit != free_.rend()) {
      PinnedSlot* const slot = *fit;
      free_.erase(std::next(fit).base());
      return slot;
    }
    const std::uint64_t size = mapped_bytes(bytes);
    // A slot that is made, or comes back, needs no memory for these lists.
    slots_.reserve(made_ + 1);
    free_.reserve(made_ + 1);
    if (may_grow(size)) {
      const std::uint32_t lane = made_++;
      lock.unlock();
      Result<std::unique_ptr<PinnedSlot>> made = Status();
      try {
        made = make(size, lane);
      } catch (const std::bad_alloc&) {
        lock.lock();
        pinned_ -= size;
        budget_.give_back(size);
        throw;
      }
      lock.lock();
      if (made.ok()) {
        pinned_now_ += size;
        peak_ = std::max(peak_, pinned_now_);
        slots_.push_back(std::move(made).value());
        return slots_.back().get();
      }
      pinned_ -= size;
      budget_.give_back(size);
      if (pinned_ == 0 || made.status().code() != Code::kOutOfMemory) return made.status();
      growth_stopped_ = made.status().to_string();  // the present slots have to do
      continue;
    }
    if (!free_.empty()) {  // all are too small: freeing them makes room
      free_one();
      continue;
    }
    freed_.wait_until(mutex_, Clock::now() + std::chrono::milliseconds(20));
  }
}

void PinnedPool::free_one() {
  PinnedSlot* const slot = free_.back();
  free_.pop_back();
  destroy(*slot);
  pinned_ -= slot->mapped;
  pinned_now_ -= slot->mapped;
  budget_.give_back(slot->mapped);
  erase(*slot);
}

void PinnedPool::share(std::uint64_t pools) {
  const MutexLock lock(mutex_);
  pools_ = pools;
  while (!free_.empty() && pinned_ > most_locked()) free_one();
}

void PinnedPool::give_back(PinnedSlot* slot) {
  {
    const MutexLock lock(mutex_);
    if (slot->copying) copying_ -= slot->size;
    slot->copying = false;
    free_.push_back(slot);
    if (pinned_ > most_locked() && slots_.size() > 1) free_one();
  }
  freed_.notify_one();
}

void PinnedPool::copying(PinnedSlot& slot) {
  const MutexLock lock(mutex_);
  if (!slot.copying) copying_ += slot.size;
  slot.copying = true;
}

void PinnedPool::give_up(PinnedSlot* slot) {
  const MutexLock lock(mutex_);
  budget_.give_back(slot->mapped);
  pinned_ -= slot->mapped;
  pinned_now_ -= slot->mapped;
  if (slot->copying) copying_ -= slot->size;
  erase(*slot);  // but not its memory
}

void PinnedPool::fail(const Status& status) {
  {
    const MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = status;
  }
  freed_.notify_all();
}

std::uint64_t PinnedPool::pinned_peak() const {
  const MutexLock lock(mutex_);
  return peak_;
}

std::string PinnedPool::growth_stopped() const {
  const MutexLock lock(mutex_);
  return growth_stopped_;
}

}  // namespace streamer::gpu
