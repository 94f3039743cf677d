// Units of memory: binary prefixes, pages, alignment, rounding.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace streamer {

inline constexpr std::uint64_t kKiB = std::uint64_t{1} << 10;
inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// A huge page of x86-64. On every architecture a multiple of the page size, so that memory which
// starts and ends at multiples of it can be mapped, moved and released.
inline constexpr std::uint64_t kHugePage = 2 * kMiB;

// The alignment of blocks and reads, so that direct reads (O_DIRECT) need no copy: the strictest
// one that usual file systems ask for. It has nothing to do with the page size.
inline constexpr std::uint64_t kDirectAlignment = 4 * kKiB;

// Bytes of a page of the running kernel: 4, 16 or 64 KiB.
inline std::uint64_t page_size() noexcept {
  static const auto size = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// The multiple of `unit`, a power of two, at or below `value`.
constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) noexcept {
  return value & ~(unit - 1);
}

// The multiple of `unit`, a power of two, at or above `value`.
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) noexcept {
  return (value + unit - 1) & ~(unit - 1);
}

constexpr bool is_aligned(std::uint64_t value, std::uint64_t unit) noexcept {
  return (value & (unit - 1)) == 0;
}
inline bool is_aligned(const void* address, std::uint64_t unit) noexcept {
  return is_aligned(reinterpret_cast<std::uintptr_t>(address), unit);
}

}  // namespace streamer
