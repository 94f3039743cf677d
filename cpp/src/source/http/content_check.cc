#include "source/http/content_check.h"

#include <algorithm>
#include <iterator>

#include "text/crc32c.h"

namespace streamer::http {

ContentCheck::ContentCheck(std::uint32_t expected, std::uint64_t size,
                           std::span<const std::byte> prefix)
    : expected_(expected), size_(size), prefix_size_(prefix.size()) {
  if (!prefix.empty()) pieces_[0] = {prefix.size(), crc32c(prefix)};
}

bool ContentCheck::failed() const {
  const std::lock_guard lock(mutex_);
  if (pieces_.empty()) return false;
  const Piece& first = pieces_.begin()->second;
  return first.size == size_ && first.crc != expected_;
}

// Joins a piece with the one that follows it, if they touch.
void ContentCheck::join(std::map<std::uint64_t, Piece>::iterator left) {
  const auto right = std::next(left);
  if (right == pieces_.end() || left->first + left->second.size != right->first) return;
  left->second.crc = crc32c_combine(left->second.crc, right->second.crc, right->second.size);
  left->second.size += right->second.size;
  pieces_.erase(right);
}

bool ContentCheck::add(std::uint64_t offset, std::span<const iovec> segments) {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return true;
  }
  Piece piece{0, 0};
  std::uint64_t known = offset < prefix_size_ ? prefix_size_ - offset : 0;
  for (const iovec& segment : segments) {
    std::span bytes(static_cast<const std::byte*>(segment.iov_base), segment.iov_len);
    const std::uint64_t skip = std::min<std::uint64_t>(known, bytes.size());
    known -= skip;
    bytes = bytes.subspan(skip);
    piece.crc = crc32c(bytes, piece.crc);
    piece.size += bytes.size();
  }
  if (piece.size == 0) return true;
  offset = std::max(offset, prefix_size_);

  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = pieces_.try_emplace(offset, piece);
  const auto next = std::next(it);
  const bool overlaps =
      !fresh || (next != pieces_.end() && offset + piece.size > next->first) ||
      (it != pieces_.begin() && std::prev(it)->first + std::prev(it)->second.size > offset);
  if (overlaps) {
    over_ = true;
    return true;
  }
  join(it);
  if (it != pieces_.begin()) join(std::prev(it));
  const Piece& first = pieces_.begin()->second;
  if (first.size != size_) return true;
  over_ = true;
  return first.crc == expected_;
}

}  // namespace streamer::http
