#include "c_api/direct_block.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "c_api/codes.h"

namespace streamer::capi {
namespace {

// statx(2) with the fields of Linux 6.1, whatever the headers of the build know.
constexpr unsigned kStatxDioalign = 0x2000;
constexpr std::size_t kMaskAt = 0;
constexpr std::size_t kMemoryAlignAt = 0x98;
constexpr std::size_t kOffsetAlignAt = 0x9c;
// Enough for every block device; used where the kernel or the file system does not tell.
constexpr std::size_t kSafeBlock = 4096;

std::size_t field(const unsigned char* buffer, std::size_t at) {
  std::uint32_t value;
  std::memcpy(&value, buffer + at, sizeof(value));
  return value;
}

}  // namespace

Outcome probe_direct_block(std::span<const char*> paths, std::size_t* block) {
  std::size_t widest = 1;
  for (const char* path : paths) {
    const auto kind = source_kind_of(path);
    if (!kind.ok()) return {code_of(kind.status(), SourceKind::kFile), kind.status().to_string()};
    if (*kind != SourceKind::kFile) continue;
    alignas(8) unsigned char buffer[256] = {};
    if (syscall(SYS_statx, AT_FDCWD, path, 0, kStatxDioalign, buffer) != 0) {
      const Status status =
          Status::error(Code::kIo, "statx failed").with_path(path).with_errno(errno);
      return {code_of(status, *kind), status.to_string()};
    }
    std::size_t needed = kSafeBlock;
    if ((field(buffer, kMaskAt) & kStatxDioalign) != 0 && field(buffer, kOffsetAlignAt) != 0) {
      needed = std::max(field(buffer, kMemoryAlignAt), field(buffer, kOffsetAlignAt));
    }
    widest = std::max(widest, needed);
  }
  *block = widest;
  return {};
}

}  // namespace streamer::capi
