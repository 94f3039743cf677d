// Memory for consecutive bytes of an object. A segment without an address is a gap: its bytes are
// not wanted.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace streamer {

inline bool is_gap(const iovec& segment) {
  return segment.iov_base == nullptr && segment.iov_len > 0;
}

inline bool has_gap(std::span<const iovec> segments) {
  return std::any_of(segments.begin(), segments.end(), is_gap);
}

// The rest of `segment` behind its first `bytes`.
inline iovec behind(const iovec& segment, std::uint64_t bytes) {
  const std::uint64_t skip = std::min<std::uint64_t>(bytes, segment.iov_len);
  void* const base =
      segment.iov_base == nullptr ? nullptr : static_cast<std::byte*>(segment.iov_base) + skip;
  return {base, segment.iov_len - skip};
}

// The bytes of `segments`, gaps included.
inline std::uint64_t total_bytes(std::span<const iovec> segments) {
  std::uint64_t bytes = 0;
  for (const iovec& segment : segments) bytes += segment.iov_len;
  return bytes;
}

}  // namespace streamer
