// What the page cache holds of a file.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace streamer {

// Asks about one open file. Thread-safe. Brings nothing into the page cache, except on kernels
// before 6.5 or for files of other users: there a page at each place that is sampled.
class PageCacheProbe {
 public:
  // `fd` must stay open for as long as the probe exists.
  PageCacheProbe(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~PageCacheProbe();
  PageCacheProbe(const PageCacheProbe&) = delete;
  PageCacheProbe& operator=(const PageCacheProbe&) = delete;

  // The part of [offset, offset + size) that is cached, from 0 to 1. All pages of a small range are
  // counted; of a large one a sample.
  double cached_fraction(std::uint64_t offset, std::uint64_t size) const;

 private:
  double sample(std::uint64_t offset, std::uint64_t size) const;

  const int fd_;
  const std::string path_;
  mutable std::once_flag once_;
  mutable int sample_fd_ = -1;
};

}  // namespace streamer
