// Bytes of an object whose content is not pinned by any header of the server. Some of the bytes are
// read again and compared, so that a change between two reads is noticed.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "source/http/client/request.h"
#include "source/http/protocol.h"

namespace streamer::http {

// True if a change of the content changes `version`, which is that of `response`. A weak ETag and a
// modification time in the second of the response promise nothing (RFC 9110, 8.8.1), and neither
// does an ETag that is made of such a time.
bool pins_content(const Version& version, const Response& response);

// Thread-safe.
class ContentSamples {
 public:
  struct Sample {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes;  // at most kSampleBytes
  };
  // The object begins with `prefix`, which was read when it was opened.
  explicit ContentSamples(std::span<const std::byte> prefix);

  // The bytes that a read which has just ended should find unchanged; none: nothing was read
  // before.
  std::optional<Sample> next() EXCLUDES(mutex_);
  // Keeps some bytes of a read of `segments` at `offset` that found its sample unchanged.
  void keep(std::uint64_t offset, std::span<const iovec> segments) EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::vector<Sample> kept_ GUARDED_BY(mutex_);
  bool prefix_only_ GUARDED_BY(mutex_) =
      true;  // usually a header, which two versions may have in common
  std::size_t slot_ GUARDED_BY(mutex_) = 0;  // of keep()
  // Any of them is next: a part of the object may be the same in both contents.
  std::minstd_rand random_ GUARDED_BY(mutex_);
};

}  // namespace streamer::http
