#include "source/file/direct_io.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "source/file/file_errors.h"
#include "streamer/storage.h"
#include "streamer/types.h"

namespace streamer {
namespace {

// Fields of struct statx since Linux 6.1, which the headers of the build may lack.
constexpr unsigned kStatxDioalign = 0x2000;
constexpr std::size_t kMaskAt = 0;
constexpr std::size_t kMemoryAlignAt = 0x98;
constexpr std::size_t kOffsetAlignAt = 0x9c;

using StatxBuffer = unsigned char[256];

std::uint32_t field(const StatxBuffer& buffer, std::size_t at) {
  std::uint32_t value = 0;
  std::memcpy(&value, buffer + at, sizeof(value));
  return value;
}

bool ask(int fd, const char* path, int flags, DirectIo* found) {
  alignas(8) StatxBuffer buffer = {};
  auto* const result = reinterpret_cast<struct statx*>(buffer);
  if (statx(fd, path, flags, kStatxDioalign, result) != 0) return false;
  if ((field(buffer, kMaskAt) & kStatxDioalign) == 0) return true;
  const std::uint32_t memory = field(buffer, kMemoryAlignAt);
  const std::uint32_t offset = field(buffer, kOffsetAlignAt);
  // 0: the file system has no direct reads of this file.
  if (std::has_single_bit(memory) && std::has_single_bit(offset)) *found = {memory, offset};
  return true;
}

}  // namespace

DirectIo direct_io_of(int fd) {
  DirectIo found;
  ask(fd, "", AT_EMPTY_PATH, &found);
  return found;
}

Result<std::uint64_t> direct_read_alignment(const std::string& path) {
  const auto kind = source_kind_of(path);
  if (!kind.ok()) return kind.status();
  if (*kind != SourceKind::kFile) return std::uint64_t{1};
  DirectIo found;
  if (!ask(AT_FDCWD, path.c_str(), 0, &found)) {
    return file_error("cannot stat the file", path, errno);
  }
  return std::max(found.memory, found.offset);
}

}  // namespace streamer
