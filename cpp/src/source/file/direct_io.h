// The alignment that direct reads (O_DIRECT) of a file need.
#pragma once

#include <cstdint>

#include "base/memory_units.h"

namespace streamer {

// Alignment in bytes, powers of two.
struct DirectIo {
  std::uint64_t memory = kDirectAlignment;  // of addresses
  std::uint64_t offset = kDirectAlignment;  // of offsets in the file, and of sizes

  bool operator==(const DirectIo&) const = default;
};

// The alignment that the kernel reports for the open file `fd` (STATX_DIOALIGN, Linux 6.1); else
// kDirectAlignment, which all usual file systems accept.
DirectIo direct_io_of(int fd);

}  // namespace streamer
