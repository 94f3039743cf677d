#include "engine/read_cursor.h"

#include <algorithm>
#include <utility>

#include "engine/strides.h"

namespace streamer {
namespace {

// A system call takes 1024; a row of a few bytes and the gap behind it are two.
constexpr std::size_t kMaxSegments = 8192;

}  // namespace

Block* ReadCursor::block() {
  // Blocks without bytes may be delivered before the cursor passes them.
  if (number_ < blocks_.begin()) {
    number_ = blocks_.begin();
    range_ = 0;
    byte_ = 0;
  }
  for (; number_ < blocks_.end() || blocks_.form_next(); ++number_) {
    Block& block = blocks_.at(number_);
    if (block.scheduled < block.bytes) return &block;
    range_ = 0;
    byte_ = 0;
  }
  return nullptr;
}

std::uint64_t ReadCursor::offset(const Block& block) const {
  std::uint32_t range = range_;
  std::uint64_t byte = byte_;
  while (block.range(range).size == byte) {
    ++range;
    byte = 0;
  }
  return place_of(block.range(range), byte);
}

bool ReadCursor::follows(const Block& block) const {
  return block.file().object == chunk_.object &&
         block.submission->destination == chunk_.destination &&
         offset(block) == chunk_.offset + chunk_.size;
}

void ReadCursor::start(const Block& block, std::uint64_t limit, std::uint64_t gap) {
  const FileState& file = block.file();
  chunk_.object = file.object;
  chunk_.kind = file.kind;
  chunk_.memory = block.memory;
  chunk_.destination = block.submission->destination;
  chunk_.offset = offset(block);
  limit_ = limit;
  gap_ = gap;
}

bool ReadCursor::append(Block& block) {
  while (range_ < block.count) {
    const Range& range = block.range(range_);
    while (byte_ < range.size) {
      const std::uint64_t start = place_of(range, byte_);
      const std::uint64_t end = chunk_.offset + chunk_.size;
      // An unwanted gap ends the chunk, if a read of its own costs less.
      const bool inside = range.strides && byte_ > 0 && chunk_.size > 0;
      if (start < end || start - end > (inside ? gap_ : 0)) return false;
      if (start - end >= limit_ - chunk_.size) return false;
      if (chunk_.segments.size() + 2 > kMaxSegments) return false;
      if (start > end) chunk_.segments.push_back({nullptr, start - end});
      chunk_.size += start - end;
      const std::uint64_t left = run_left(range, byte_);
      const std::uint64_t size = std::min(left, limit_ - chunk_.size);
      std::byte* const target =
          byte_ + (range.destination != nullptr ? static_cast<std::byte*>(range.destination)
                                                : block.data + block.offsets[range_]);
      iovec* const last = chunk_.segments.empty() ? nullptr : &chunk_.segments.back();
      if (last != nullptr && last->iov_base != nullptr &&
          static_cast<std::byte*>(last->iov_base) + last->iov_len == target) {
        last->iov_len += size;
      } else {
        chunk_.segments.push_back({target, size});
      }
      if (chunk_.shares.empty() || chunk_.shares.back().block != &block) {
        chunk_.shares.push_back({&block, 0});
      }
      chunk_.shares.back().bytes += size;
      chunk_.size += size;
      block.scheduled += size;
      byte_ += size;
      if (size < left) return false;
    }
    ++range_;
    byte_ = 0;
  }
  return chunk_.size < limit_ && chunk_.segments.size() + 1 < kMaxSegments;
}

Chunk ReadCursor::take() {
  owner_.reset();
  return std::exchange(chunk_, Chunk());
}

}  // namespace streamer
