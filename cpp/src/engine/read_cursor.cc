#include "engine/read_cursor.h"

#include <algorithm>
#include <utility>

namespace streamer {
namespace {

constexpr std::size_t kMaxSegments = 1024;  // IOV_MAX

}  // namespace

Block* ReadCursor::block() {
  // Blocks without bytes may be delivered before the cursor passes them.
  if (number_ < blocks_.begin()) {
    number_ = blocks_.begin();
    range_ = 0;
    byte_ = 0;
  }
  for (; number_ < blocks_.end(); ++number_) {
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
  return block.range(range).offset + byte;
}

bool ReadCursor::follows(const Block& block) const {
  return block.file().object == chunk_.object &&
         block.submission->destination == chunk_.destination &&
         offset(block) == chunk_.offset + chunk_.size;
}

void ReadCursor::start(const Block& block, std::uint64_t limit) {
  const FileState& file = block.file();
  chunk_.object = file.object;
  chunk_.kind = file.kind;
  chunk_.memory = block.memory;
  chunk_.destination = block.submission->destination;
  chunk_.offset = offset(block);
  limit_ = limit;
}

bool ReadCursor::append(Block& block) {
  while (range_ < block.count) {
    const Range& range = block.range(range_);
    const std::uint64_t left = range.size - byte_;
    if (left > 0) {
      // A gap that nobody asked for ends the chunk.
      if (range.offset + byte_ != chunk_.offset + chunk_.size) return false;
      if (chunk_.size >= limit_ || chunk_.segments.size() >= kMaxSegments) return false;
      const std::uint64_t size = std::min(left, limit_ - chunk_.size);
      std::byte* const target =
          byte_ + (range.destination != nullptr ? static_cast<std::byte*>(range.destination)
                                                : block.data + block.offsets[range_]);
      iovec* const last = chunk_.segments.empty() ? nullptr : &chunk_.segments.back();
      if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == target) {
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
  return chunk_.size < limit_ && chunk_.segments.size() < kMaxSegments;
}

Chunk ReadCursor::take() {
  owner_.reset();
  return std::exchange(chunk_, Chunk());
}

}  // namespace streamer
