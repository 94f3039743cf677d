#include "source/system_calls.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <vector>

namespace streamer::testing {
namespace {

// Shared by the calls that are in a hook: no hook goes away under a thread that is in it.
std::shared_mutex hooks_mutex;
Hooks hooks;  // NOLINT

std::optional<ssize_t> answer_of(int fd, off_t offset, std::size_t bytes, bool nowait) {
  const std::shared_lock lock(hooks_mutex);
  return hooks.read ? hooks.read(fd, offset, bytes, nowait) : std::nullopt;
}

int answer_of(const std::function<int(void*, std::size_t)>& hook, void* address,
              std::size_t bytes) {
  const std::shared_lock lock(hooks_mutex);
  return hook ? hook(address, bytes) : 0;
}

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
  const auto answer = answer_of(fd, offset, total(segments, count), (flags & RWF_NOWAIT) != 0);
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

SystemCalls::SystemCalls(Hooks chosen) {
  const std::unique_lock lock(hooks_mutex);
  hooks = std::move(chosen);
}
SystemCalls::~SystemCalls() {
  const std::unique_lock lock(hooks_mutex);
  hooks = {};
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
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (advice == kPopulateRead && bytes > page) {  // with one page views try what the kernel can do
    if (const int os_error = answer_of(hooks.populate, address, bytes); os_error != 0) {
      errno = os_error;
      return -1;
    }
  }
  return static_cast<int>(syscall(SYS_madvise, address, bytes, advice));
}

int statx(int fd, const char* path, int flags, unsigned mask, struct statx* result) noexcept {
  const long failed = syscall(SYS_statx, fd, path, flags, mask, result);
  const std::shared_lock lock(hooks_mutex);
  if (failed != 0 || !hooks.direct_io) return static_cast<int>(failed);
  // struct statx since Linux 6.1: stx_mask, stx_dio_mem_align, stx_dio_offset_align.
  constexpr std::uint32_t kDioalign = 0x2000;
  const auto [memory, offset] = hooks.direct_io();
  auto* const bytes = reinterpret_cast<char*>(result);
  result->stx_mask |= kDioalign;
  std::memcpy(bytes + 0x98, &memory, sizeof(memory));
  std::memcpy(bytes + 0x9c, &offset, sizeof(offset));
  return 0;
}

int munmap(void* address, std::size_t bytes) noexcept {
  if (const int os_error = answer_of(hooks.unmap, address, bytes); os_error != 0) {
    errno = os_error;
    return -1;
  }
  return static_cast<int>(syscall(SYS_munmap, address, bytes));
}

}  // extern "C"

}  // namespace streamer::testing
