#include "engine/address_space.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/memory_map.h"

namespace streamer {
namespace {

class System final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages pages) override {
    if (bytes < kMapThreshold) return static_cast<std::byte*>(std::aligned_alloc(64, bytes));
    if (!starts_at_huge_page(bytes)) return map_memory(bytes);
    std::byte* const data = map_aligned_memory(bytes);
    if (data != nullptr && pages == Pages::kHuge) madvise(data, bytes, MADV_HUGEPAGE);
    return data;
  }
  void release(std::byte* data, std::uint64_t bytes) override {
    if (bytes < kMapThreshold) {
      std::free(data);
    } else {
      unmap_memory(data, bytes);
    }
  }
  void unmap(std::byte* data, std::uint64_t bytes) override { unmap_memory(data, bytes); }
  bool move(std::byte* data, std::uint64_t bytes, std::byte* target) override {
    return mremap(data, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != MAP_FAILED;
  }
};

}  // namespace

AddressSpace& AddressSpace::system() {
  static auto* const space = new System;  // outlives the buffers of static objects
  return *space;
}

}  // namespace streamer
