#include "engine/address_space.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>

#include "base/memory_map.h"

namespace streamer {
namespace {

// A process may have 65,530 (vm.max_map_count). Kept blocks whose sizes are no whole huge pages
// have gaps between them, hence a mapping each.
constexpr std::size_t kManyMappings = 16'384;
constexpr unsigned kMapsBetweenCounts = 1024;

std::size_t mappings_of_this_process() {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  std::array<char, 16 * kKiB> text;  // NOLINT: filled by read()
  std::size_t count = 0;
  for (ssize_t got = 0; (got = ::read(fd, text.data(), text.size())) > 0;) {
    count += static_cast<std::size_t>(std::count(text.begin(), text.begin() + got, '\n'));
  }
  ::close(fd);
  return count;
}

class System final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages pages) override {
    if (bytes < kMapThreshold) return static_cast<std::byte*>(std::aligned_alloc(64, bytes));
    if (!starts_at_huge_page(bytes)) return map_memory(bytes);
    if (mapped_.fetch_add(1, std::memory_order_relaxed) % kMapsBetweenCounts == 0) {
      crowded_.store(mappings_of_this_process() > kManyMappings, std::memory_order_relaxed);
    }
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
  bool crowded() const override { return crowded_.load(std::memory_order_relaxed); }

 private:
  std::atomic<unsigned> mapped_{0};  // times
  std::atomic<bool> crowded_{false};
};

}  // namespace

AddressSpace& AddressSpace::system() {
  static auto* const space = new System;  // outlives the buffers of static objects
  return *space;
}

}  // namespace streamer
