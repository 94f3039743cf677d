#include "base/memory_map.h"

#include <sys/mman.h>

#include "base/memory_units.h"

namespace streamer {

std::byte* map_memory(std::uint64_t bytes, std::uintptr_t wanted) noexcept {
  void* const hint = reinterpret_cast<void*>(wanted);  // NOLINT: an address, no memory yet
  void* const data = mmap(hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::byte* map_aligned_memory(std::uint64_t bytes) noexcept {
  const std::uint64_t kept = round_up(bytes, page_size());
  if (is_aligned(kept, kHugePage)) {  // many kernels align such a mapping by themselves
    std::byte* const data = map_memory(kept);
    if (data == nullptr || is_aligned(data, kHugePage)) return data;
    unmap_memory(data, kept);
  }
  std::byte* const start = map_memory(kept + kHugePage);
  if (start == nullptr) return nullptr;
  // The highest place that is aligned: the kernel maps downwards, and neighbours without a gap
  // become one mapping.
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::uint64_t head = round_down(address + kHugePage, kHugePage) - address;
  unmap_memory(start, head);
  unmap_memory(start + head + kept, kHugePage - head);
  return start + head;
}

void unmap_memory(void* data, std::uint64_t bytes) noexcept {
  if (bytes == 0 || munmap(data, bytes) == 0) return;
  madvise(data, bytes, MADV_DONTNEED);
}

}  // namespace streamer
