#include "source/file/page_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/memory_units.h"
#include "source/file/file_errors.h"
#include "streamer/storage.h"

namespace streamer {
namespace {

constexpr long kCachestat = 451;  // the number of cachestat(2) on all architectures
// Counting walks every page (about 16 ms a GB of small pages), so a larger range is sampled.
constexpr std::uint64_t kCountedBytes = 16 * kMiB;
constexpr std::uint64_t kSamples = 64;
constexpr std::uint64_t kSampleBytes = 64 * kKiB;
// Between single bytes that are read as samples.
constexpr std::uint64_t kReadStep = 4 * kMiB;

// Pages of [offset, offset + size) in the page cache; -1 if the kernel can't report them.
std::int64_t count_cached(int fd, std::uint64_t offset, std::uint64_t size) {
  struct {
    std::uint64_t offset, size;
  } range{offset, size};
  struct {
    std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } counts{};
  if (syscall(kCachestat, fd, &range, &counts, 0) != 0) return -1;
  return static_cast<std::int64_t>(counts.cached);
}

// Pages that [offset, offset + size) touches.
std::uint64_t pages_of(std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t page = page_size();
  return (round_up(offset + size, page) - round_down(offset, page)) / page;
}

// A read that must not wait is correct for files of other users, unlike mincore(2), but starts
// to read missing pages: one page of it, through a descriptor without readahead.
double sample(int fd, std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t step = std::max(std::min(kReadStep, (size + 1) / 2), size / kSamples);
  std::uint64_t cached = 0;
  std::uint64_t asked = 0;
  for (std::uint64_t at = step / 2; at < size; at += step) {
    char byte = 0;
    const iovec segment{&byte, 1};
    ++asked;
    if (preadv2(fd, &segment, 1, static_cast<off_t>(offset + at), RWF_NOWAIT) == 1) ++cached;
  }
  return static_cast<double>(cached) / static_cast<double>(asked);
}

// Of a file that is open.
class OpenFile final : public PageCacheDescriptors {
 public:
  OpenFile(int fd, const std::string& path) : fd_(fd), path_(path) {}
  ~OpenFile() override {
    if (sampling_ >= 0) ::close(sampling_);
    ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int plain() override { return fd_; }
  int without_readahead() override {
    sampling_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (sampling_ >= 0) posix_fadvise(sampling_, 0, 0, POSIX_FADV_RANDOM);
    return sampling_;
  }

 private:
  const int fd_;
  const std::string& path_;
  int sampling_ = -1;
};

}  // namespace

double cached_fraction(PageCacheDescriptors& file, std::uint64_t offset, std::uint64_t size) {
  if (size == 0) return 1;
  const bool all = size <= kCountedBytes;
  const std::uint64_t count = all ? 1 : kSamples;
  const std::uint64_t bytes = all ? size : kSampleBytes;
  std::uint64_t cached = 0;
  std::uint64_t asked = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t at = offset + (count == 1 ? 0 : (size - bytes) / (count - 1) * i);
    const std::int64_t pages = count_cached(file.plain(), at, bytes);
    if (pages < 0) return sample(file.without_readahead(), offset, size);
    cached += static_cast<std::uint64_t>(pages);
    asked += pages_of(at, bytes);
  }
  return static_cast<double>(cached) / static_cast<double>(asked);
}

Result<double> cached_fraction(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return file_error("cannot open the file", path, errno);
  OpenFile file(fd, path);
  struct stat info {};
  if (fstat(fd, &info) != 0) return file_error("cannot stat the file", path, errno);
  return cached_fraction(file, 0,
                         S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0);
}

}  // namespace streamer
