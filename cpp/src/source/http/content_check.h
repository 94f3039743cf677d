// Compares the bytes of an object, read in pieces by several threads, with the checksum that its
// server names.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

namespace streamer::http {

// Thread-safe. Tells nothing until every byte has been read once; reading some bytes twice (beyond
// the prefix) ends it without a verdict.
class ContentCheck {
 public:
  // `prefix` is what was read when the object was opened. Later pieces may cover it again.
  ContentCheck(std::uint32_t expected, std::uint64_t size, std::span<const std::byte> prefix);

  // Counts a piece that has been read. False when the object is complete and is not what it should
  // be.
  bool add(std::uint64_t offset, std::span<const iovec> segments);
  bool failed() const;

 private:
  struct Piece {
    std::uint64_t size;
    std::uint32_t crc;
  };
  void join(std::map<std::uint64_t, Piece>::iterator left);

  const std::uint32_t expected_;
  const std::uint64_t size_;
  const std::uint64_t prefix_size_;
  mutable std::mutex mutex_;
  bool over_ = false;
  std::map<std::uint64_t, Piece> pieces_;  // by offset; neighbours are joined
};

}  // namespace streamer::http
