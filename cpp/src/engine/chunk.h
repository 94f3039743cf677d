// Chunks: what is read at once.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/block.h"

namespace streamer {

// One read: consecutive bytes of one object for one or more blocks.
struct Chunk {
  std::shared_ptr<const Object> object;
  SourceKind kind = SourceKind::kFile;
  Placement placement = Placement::kPool;
  Destination* destination = nullptr;  // of a device
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::vector<iovec> segments;  // host or device addresses; one entry for a view
  struct Share {
    Block* block;  // stays valid until all its bytes are completed
    std::uint64_t bytes;
  };
  std::vector<Share> shares;
  bool reading = true;                     // it counts among the reads under way
  std::shared_ptr<ReadProgress> progress;  // null: not watched
  int cuts = 0;                            // how often it was cut off from another chunk
};

// Leaves `chunk` its first `bytes` and returns the others.
Chunk cut_off(Chunk* chunk, std::uint64_t bytes);

}  // namespace streamer
