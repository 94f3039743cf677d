// The blocks of a stream in the order in which they were submitted, and the memory that the
// consumer holds.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/plan.h"

namespace streamer {

// A state without threads, clocks or system calls. Blocks leave it in order, complete, in batches.
class DeliveryQueue {
 public:
  using Number = std::uint64_t;  // of a block, counted from the first one of the stream

  explicit DeliveryQueue(std::shared_ptr<MemoryPool> pool) : pool_(std::move(pool)) {}

  // Nothing changes if it throws.
  void add(Plan plan);

  // While there is a block, the first one is formed.
  bool empty() const { return blocks_.empty(); }
  Number begin() const { return begin_; }                 // of the block that is delivered next
  Number end() const { return begin_ + blocks_.size(); }  // past the last one that is formed
  bool all_formed() const { return plans_.empty(); }
  // Forms the next block. False if there is none.
  bool form_next();
  // A reference stays valid until the block is delivered.
  Block& at(Number number) { return blocks_[number - begin_]; }
  bool front_done() const { return !blocks_.empty() && blocks_.front().done(); }
  bool is_front(const Block& block) const { return !blocks_.empty() && &block == &blocks_.front(); }

  // The blocks at the front that are complete: at most some MiB, unless one block is larger, and of
  // one file if there are views.
  // Buffers of the batch before the last one that are still alive are kept by the consumer: they
  // stop counting against the budget. Nothing changes if it throws.
  std::vector<Block> take_batch();

  // Stops counting everything that was delivered.
  void stop_counting_delivered();

 private:
  using Leases = std::vector<std::shared_ptr<MemoryPool::Lease>>;
  void stop_counting(const Leases& leases);

  const std::shared_ptr<MemoryPool> pool_;
  std::deque<Block> blocks_;
  std::deque<Plan> plans_;  // of the blocks behind them; none is at its end
  Number begin_ = 0;
  // Of the last batch and of the one before it: the consumer seems to be working with them.
  Leases delivered_, delivered_before_;
};

}  // namespace streamer
