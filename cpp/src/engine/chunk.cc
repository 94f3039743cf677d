#include "engine/chunk.h"

#include <algorithm>

namespace streamer {

Chunk cut_off(Chunk* chunk, std::uint64_t bytes) {
  Chunk rest = *chunk;
  rest.progress = nullptr;
  rest.offset += bytes;
  rest.size -= bytes;
  rest.segments.clear();
  rest.shares.clear();
  ++rest.cuts;
  chunk->size = bytes;
  std::uint64_t left = bytes;
  for (iovec& segment : chunk->segments) {
    const std::uint64_t kept = std::min<std::uint64_t>(left, segment.iov_len);
    left -= kept;
    if (kept < segment.iov_len) {
      rest.segments.push_back(
          {static_cast<std::byte*>(segment.iov_base) + kept, segment.iov_len - kept});
    }
    segment.iov_len = kept;
  }
  std::erase_if(chunk->segments, [](const iovec& segment) { return segment.iov_len == 0; });
  left = bytes;
  for (Chunk::Share& share : chunk->shares) {
    const std::uint64_t kept = std::min(left, share.bytes);
    left -= kept;
    if (kept < share.bytes) rest.shares.push_back({share.block, share.bytes - kept});
    share.bytes = kept;
  }
  std::erase_if(chunk->shares, [](const Chunk::Share& share) { return share.bytes == 0; });
  return rest;
}

}  // namespace streamer
