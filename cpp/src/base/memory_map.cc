#include "base/memory_map.h"

#include <sys/mman.h>

#include "base/memory_units.h"

namespace streamer {

std::byte* map_memory(std::uint64_t bytes) noexcept {
  void* const data =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::byte* map_aligned_memory(std::uint64_t bytes) noexcept {
  const std::uint64_t kept = round_up(bytes, page_size());
  std::byte* const start = map_memory(kept + kHugePage);
  if (start == nullptr) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::uint64_t head = round_up(address, kHugePage) - address;
  if (head > 0) unmap_memory(start, head);
  if (head < kHugePage) unmap_memory(start + head + kept, kHugePage - head);
  return start + head;
}

void unmap_memory(void* data, std::uint64_t bytes) noexcept {
  if (bytes == 0 || munmap(data, bytes) == 0) return;
  madvise(data, bytes, MADV_DONTNEED);
}

}  // namespace streamer
