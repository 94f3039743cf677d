#include "source/http/content_check.h"

#include <algorithm>
#include <iterator>

#include "text/crc32c.h"
#include "text/crc64.h"

namespace streamer::http {

namespace {

using Kind = Checksum::Kind;

std::uint64_t add_crc32c(std::span<const std::byte> data, std::uint64_t sum) {
  return crc32c(data, static_cast<std::uint32_t>(sum));
}

ContentCheck::Adder adder_of(Kind kind) {
  return kind == Kind::kCrc64Nvme ? &crc64nvme : &add_crc32c;
}

std::uint64_t combine(Kind kind, std::uint64_t a, std::uint64_t b, std::uint64_t size_b) {
  if (kind == Kind::kCrc64Nvme) return crc64nvme_combine(a, b, size_b);
  return crc32c_combine(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b), size_b);
}

}  // namespace

ContentCheck::ContentCheck(std::uint64_t size, std::span<const std::byte> prefix)
    : size_(size), prefix_size_(prefix.size()) {
  for (const Kind kind : {Kind::kCrc32c, Kind::kCrc64Nvme}) {
    prefix_sums_[static_cast<std::size_t>(kind)] = adder_of(kind)(prefix, 0);
  }
}

void ContentCheck::expect(const Checksum& expected) {
  const MutexLock lock(mutex_);
  expected_ = expected;
  if (prefix_size_ > 0) {
    pieces_[0] = {prefix_size_, prefix_sums_[static_cast<std::size_t>(expected.kind)]};
  }
}

bool ContentCheck::failed() const {
  const MutexLock lock(mutex_);
  return prefix_size_ == size_ && !pieces_.empty() &&
         pieces_.begin()->second.sum != expected_.value;
}

// Joins a piece with the one that follows it, if they touch.
void ContentCheck::join_locked(std::map<std::uint64_t, Piece>::iterator left) {
  const auto right = std::next(left);
  if (right == pieces_.end() || left->first + left->second.size != right->first) return;
  left->second.sum =
      combine(expected_.kind, left->second.sum, right->second.sum, right->second.size);
  left->second.size += right->second.size;
  pieces_.erase(right);
}

ContentCheck::Verdict ContentCheck::add(std::uint64_t offset, std::span<const iovec> segments) {
  {
    const MutexLock lock(mutex_);
    if (over_) return Verdict::kNone;
  }
  Piece piece{0, 0};
  std::uint64_t known = offset < prefix_size_ ? prefix_size_ - offset : 0;
  for (const iovec& segment : segments) {
    std::span bytes(static_cast<const std::byte*>(segment.iov_base), segment.iov_len);
    const std::uint64_t skip = std::min<std::uint64_t>(known, bytes.size());
    known -= skip;
    bytes = bytes.subspan(skip);
    piece.sum = adder()(bytes, piece.sum);
    piece.size += bytes.size();
  }
  return add_sum(std::max(offset, prefix_size_), piece.size, piece.sum);
}

ContentCheck::Adder ContentCheck::adder() const { return adder_of(expected_.kind); }

ContentCheck::Verdict ContentCheck::add_sum(std::uint64_t offset, std::uint64_t size,
                                            std::uint64_t sum) {
  if (size == 0) return Verdict::kNone;
  const Piece piece{size, sum};
  const MutexLock lock(mutex_);
  if (over_) return Verdict::kNone;
  const auto [it, fresh] = pieces_.try_emplace(offset, piece);
  const auto next = std::next(it);
  const bool overlaps =
      !fresh || (next != pieces_.end() && offset + piece.size > next->first) ||
      (it != pieces_.begin() && std::prev(it)->first + std::prev(it)->second.size > offset);
  if (overlaps) {
    over_ = true;
    return Verdict::kNone;
  }
  join_locked(it);
  if (it != pieces_.begin()) join_locked(std::prev(it));
  const Piece& first = pieces_.begin()->second;
  if (first.size != size_) return Verdict::kNone;
  over_ = true;
  return first.sum == expected_.value ? Verdict::kMatches : Verdict::kDiffers;
}

}  // namespace streamer::http
