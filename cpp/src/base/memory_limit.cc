#include <string>

#include "streamer/types.h"

namespace streamer {

Result<MemoryLimit> MemoryLimit::from_setting(std::int64_t value) {
  if (value == -1) return unlimited();
  if (value == 0) return least();
  if (value > 0) return bytes(static_cast<std::uint64_t>(value));
  return Status::error(
      Code::kInvalid, "memory_limit " + std::to_string(value) +
                          " is not -1 (never wait), 0 (the least that works) or a number of bytes");
}

}  // namespace streamer
