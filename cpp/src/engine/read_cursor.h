// Cuts the blocks of a stream into chunks, in order.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/delivery_queue.h"
#include "engine/plan.h"

namespace streamer {

// A state without threads, clocks or system calls. It stands at a byte of a range of a block, and
// only moves forward. A chunk starts at a block that has memory; it is extended block by block, for
// as long as they are consecutive in the object and have memory, too.
class ReadCursor {
 public:
  explicit ReadCursor(DeliveryQueue& blocks) : blocks_(blocks) {}

  // True if the cursor has passed every block.
  bool at_end() const {
    return blocks_.empty() || (blocks_.end() <= number_ && blocks_.all_formed());
  }
  // The block whose bytes are read next, null at the end. Forms it if need be. Passes over those
  // that need no read.
  Block* block();

  // The chunk that is being formed. It belongs to one worker, which may have to find memory for the
  // next block in between; no other worker moves the cursor meanwhile.
  std::optional<WorkerId> owner() const { return owner_; }
  void claim(WorkerId worker) { owner_ = worker; }
  void release() { owner_.reset(); }
  bool started() const { return chunk_.size > 0; }
  // True if the bytes of `block` follow those of the chunk; the memory may still differ.
  bool follows(const Block& block) const;
  bool same_memory(const Block& block) const { return block.memory == chunk_.memory; }
  // Starts a chunk at the cursor, in `block`, with at most `limit` bytes. Of strides it passes over
  // gaps of at most `gap` bytes.
  void start(const Block& block, std::uint64_t limit, std::uint64_t gap);
  // Adds bytes of `block` from the cursor on. True if there is room for more, from the next block.
  bool append(Block& block);
  Chunk take();

  // The offset of the next byte at the cursor, in the object of `block`.
  std::uint64_t offset(const Block& block) const;

 private:
  DeliveryQueue& blocks_;
  DeliveryQueue::Number number_ = 0;  // of the block at the cursor
  std::uint32_t range_ = 0;           // index into that block
  std::uint64_t byte_ = 0;            // offset in that range

  std::optional<WorkerId> owner_;
  Chunk chunk_;
  std::uint64_t limit_ = 0;
  std::uint64_t gap_ = 0;
};

}  // namespace streamer
