#include "source/system_calls.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace streamer::testing {
namespace {

ReadHook read_hook;          // NOLINT: set while nobody reads
PopulateHook populate_hook;  // NOLINT

std::size_t total(const iovec* segments, int count) {
  std::size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += segments[i].iov_len;
  return bytes;
}

ssize_t read_kernel(int fd, const iovec* segments, int count, off_t offset, int flags) {
  return syscall(SYS_preadv2, fd, segments, count, offset, 0L, flags);
}

// The first `bytes` of the segments.
std::vector<iovec> cut(const iovec* segments, int count, std::size_t bytes) {
  std::vector<iovec> part;
  for (int i = 0; i < count && bytes > 0; ++i) {
    part.push_back({segments[i].iov_base, std::min(bytes, segments[i].iov_len)});
    bytes -= part.back().iov_len;
  }
  return part;
}

ssize_t read_hooked(int fd, const iovec* segments, int count, off_t offset, int flags) {
  if (!read_hook) return read_kernel(fd, segments, count, offset, flags);
  const std::size_t bytes = total(segments, count);
  const auto answer = read_hook(fd, offset, bytes, (flags & RWF_NOWAIT) != 0);
  if (!answer) return read_kernel(fd, segments, count, offset, flags);
  if (*answer < 0) {
    errno = static_cast<int>(-*answer);
    return -1;
  }
  const auto part = cut(segments, count, static_cast<std::size_t>(*answer));
  if (part.empty()) return 0;
  return read_kernel(fd, part.data(), static_cast<int>(part.size()), offset, flags);
}

}  // namespace

SystemCalls::SystemCalls(ReadHook on_read, PopulateHook on_populate) {
  read_hook = std::move(on_read);
  populate_hook = std::move(on_populate);
}
SystemCalls::~SystemCalls() {
  read_hook = {};
  populate_hook = {};
}

extern "C" {

ssize_t preadv2(int fd, const iovec* segments, int count, off_t offset, int flags) {
  return read_hooked(fd, segments, count, offset, flags);
}

ssize_t preadv(int fd, const iovec* segments, int count, off_t offset) {
  return read_hooked(fd, segments, count, offset, 0);
}

ssize_t pread(int fd, void* data, std::size_t bytes, off_t offset) {
  const iovec segment{data, bytes};
  return read_hooked(fd, &segment, 1, offset, 0);
}

int madvise(void* address, std::size_t bytes, int advice) noexcept {
  constexpr int kPopulateRead = 22;
  if (advice == kPopulateRead && populate_hook) {
    if (const int os_error = populate_hook(address, bytes); os_error != 0) {
      errno = os_error;
      return -1;
    }
  }
  return static_cast<int>(syscall(SYS_madvise, address, bytes, advice));
}

}  // extern "C"

}  // namespace streamer::testing
