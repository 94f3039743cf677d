// Compares the bytes of an object, read in pieces by several threads, with the checksum that its
// server names.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

#include "base/mutex.h"

namespace streamer::http {

// Of the content of a whole object.
struct Checksum {
  enum class Kind { kCrc32c, kCrc64Nvme };
  Kind kind = Kind::kCrc32c;
  std::uint64_t value = 0;
};

// Thread-safe. Has no result until every byte has been read once. If some bytes beyond the prefix
// are read twice, it ends without a result.
class ContentCheck {
 public:
  // `prefix` was read when the object was opened. Later pieces may cover it again.
  ContentCheck(std::uint64_t size, std::span<const std::byte> prefix);

  // The checksum that the object should have. Called once, before add() and failed().
  void expect(const Checksum& expected) EXCLUDES(mutex_);
  enum class Verdict { kNone, kMatches, kDiffers };
  // Counts a piece that has been read. The result comes with the piece that completes the object.
  Verdict add(std::uint64_t offset, std::span<const iovec> segments) EXCLUDES(mutex_);
  // The same of a piece behind the prefix whose sum, by adder(), is known.
  Verdict add_sum(std::uint64_t offset, std::uint64_t size, std::uint64_t sum) EXCLUDES(mutex_);
  bool behind_prefix(std::uint64_t offset) const { return offset >= prefix_size_; }
  // Adds bytes to a sum; 0 is that of no bytes. After expect().
  using Adder = std::uint64_t (*)(std::span<const std::byte> data, std::uint64_t sum);
  Adder adder() const;
  // True if the prefix is the whole object, and has another checksum.
  bool failed() const EXCLUDES(mutex_);

 private:
  struct Piece {
    std::uint64_t size;
    std::uint64_t sum;
  };
  void join_locked(std::map<std::uint64_t, Piece>::iterator left) REQUIRES(mutex_);

  const std::uint64_t size_;
  const std::uint64_t prefix_size_;
  std::array<std::uint64_t, 2> prefix_sums_{};  // by kind
  Checksum expected_;                           // see expect()
  mutable Mutex mutex_;
  bool over_ GUARDED_BY(mutex_) = false;
  std::map<std::uint64_t, Piece> pieces_ GUARDED_BY(mutex_);  // by offset; neighbours are joined
};

}  // namespace streamer::http
