// Private anonymous memory, mapped and unmapped.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streamer {

// `bytes` of zeroed memory that starts a page, at the address `wanted` if it is free. Null, with
// errno set, if the system refuses it.
std::byte* map_memory(std::uint64_t bytes, std::uintptr_t wanted = 0) noexcept;

// The same, starting at a multiple of kHugePage.
std::byte* map_aligned_memory(std::uint64_t bytes) noexcept;

// Unmaps memory of map_memory(), map_aligned_memory() or of a file, or a part of it. `data` starts
// a page; the page in which the memory ends is unmapped whole. If the kernel can't split the
// mapping (vm.max_map_count), the pages are released and the addresses stay in use.
void unmap_memory(void* data, std::uint64_t bytes) noexcept;

}  // namespace streamer
