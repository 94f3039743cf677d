// The part of a file that the page cache holds.
#pragma once

#include <cstdint>

namespace streamer {

// Descriptors of one open file for questions about its pages.
class PageCacheDescriptors {
 public:
  virtual ~PageCacheDescriptors() = default;
  virtual int plain() = 0;
  // Without readahead; -1: not available. Called only if plain() is not enough.
  virtual int without_readahead() = 0;
};

// The part of [offset, offset + size) that is cached, from 0 to 1. All pages of a small range are
// counted; of a large one a sample. Brings nothing into the page cache, except on kernels before
// 6.5 or for files of other users: there a page at each place that is sampled.
double cached_fraction(PageCacheDescriptors& file, std::uint64_t offset, std::uint64_t size);

}  // namespace streamer
