// The decision on the way to read a range of a file.
#pragma once

#include "streamer/types.h"

namespace streamer {

enum class ReadWay {
  kView,      // a part of the file's mapping; without a mapping as kBuffered
  kBuffered,  // through the page cache
  kDirect,    // past the page cache (O_DIRECT)
};

// The facts that the decision depends on besides the strategy. Each is asked at most once, and only
// if the decision needs it: the later ones are system calls.
class RangeFacts {
 public:
  virtual ~RangeFacts() = default;
  // Bytes that are not cached should not be brought into the page cache: they leave the host at
  // once, or the processors or the memory are too few to fill the cache at the device's speed.
  virtual bool cache_is_costly() const = 0;
  // Another stream reads the file, too: the bytes that one brings into the page cache serve the
  // other.
  virtual bool read_by_others() const = 0;
  // At least half of the range is in the page cache.
  virtual bool cached() const = 0;
};

ReadWay choose_way(FsStrategy strategy, const RangeFacts& facts);

}  // namespace streamer
