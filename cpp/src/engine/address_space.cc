#include "engine/address_space.h"

#include <sys/mman.h>

#include <atomic>

#include "base/memory_map.h"

namespace streamer {
namespace {

class System final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages pages, Place place) override {
    const bool aligned = place == Place::kAligned;
    if (aligned && !starts_at_huge_page(bytes)) return map_memory(bytes);
    std::byte* const data = aligned ? map_aligned_memory(bytes) : map_below_last(bytes);
    // Adjacent mappings with different advice would not be merged.
    if (data != nullptr && pages == Pages::kHuge) madvise(data, bytes, MADV_HUGEPAGE);
    return data;
  }
  void release(std::byte* data, std::uint64_t bytes) override { unmap_memory(data, bytes); }
  void unmap(std::byte* data, std::uint64_t bytes) override { unmap_memory(data, bytes); }
  void discard(std::byte* data, std::uint64_t bytes) override {
    madvise(data, bytes, MADV_DONTNEED);
  }
  bool move(std::byte* data, std::uint64_t bytes, std::byte* target) override {
    return mremap(data, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != MAP_FAILED;
  }

 private:
  // The kernel maps downwards, but some versions leave gaps.
  std::byte* map_below_last(std::uint64_t bytes) {
    const std::uintptr_t last = last_.load(std::memory_order_relaxed);
    std::byte* const data = map_memory(bytes, last > bytes ? last - bytes : 0);
    last_.store(reinterpret_cast<std::uintptr_t>(data), std::memory_order_relaxed);
    return data;
  }

  std::atomic<std::uintptr_t> last_{0};
};

}  // namespace

AddressSpace& AddressSpace::system() {
  static auto* const space = new System;  // outlives the buffers of static objects
  return *space;
}

}  // namespace streamer
