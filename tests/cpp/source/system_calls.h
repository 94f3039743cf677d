// System calls that read files and map memory: a test may put a hook before the kernel. (The test
// program's own symbols go before those of the C library.)
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

namespace streamer::testing {

// What a read of `bytes` at `offset` of `fd` does. An answer below zero is -errno; an answer of N
// reads at most N bytes from the file; none leaves the call to the kernel.
using ReadHook =
    std::function<std::optional<ssize_t>(int fd, off_t offset, std::size_t bytes, bool nowait)>;
// An answer other than 0 is errno.
using PopulateHook = std::function<int(void* address, std::size_t bytes)>;
using UnmapHook = std::function<int(void* address, std::size_t bytes)>;

// What statx(2) tells about direct reads: the alignment of memory and of offsets.
using DirectIoHook = std::function<std::pair<std::uint32_t, std::uint32_t>()>;

struct Hooks {
  ReadHook read;
  PopulateHook populate;
  UnmapHook unmap;
  DirectIoHook direct_io;
};

// Cleared when it goes out of scope, which waits until no thread is in a hook. One at a time.
class SystemCalls {
 public:
  explicit SystemCalls(Hooks hooks);
  explicit SystemCalls(ReadHook on_read, PopulateHook on_populate = {})
      : SystemCalls(Hooks{std::move(on_read), std::move(on_populate), {}, {}}) {}
  ~SystemCalls();
  SystemCalls(const SystemCalls&) = delete;
  SystemCalls& operator=(const SystemCalls&) = delete;
};

}  // namespace streamer::testing
