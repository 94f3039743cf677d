#include "engine/delivery_queue.h"

#include <utility>

namespace streamer {
namespace {

constexpr std::uint64_t kBatchMemory = 8 * kMiB;
constexpr std::uint64_t kBatchViews = 32 * kMiB;
constexpr std::size_t kBatchBlocks = 64;

}  // namespace

void DeliveryQueue::add(Plan plan) {
  if (plan.at_end()) return;
  plans_.push_back(std::move(plan));
  if (!blocks_.empty()) return;
  try {
    form_next();
  } catch (...) {
    plans_.pop_back();
    throw;
  }
}

bool DeliveryQueue::form_next() {
  if (plans_.empty()) return false;
  blocks_.emplace_back();
  try {
    blocks_.back() = plans_.front().next();
  } catch (...) {
    blocks_.pop_back();
    throw;
  }
  if (plans_.front().at_end()) plans_.pop_front();
  return true;
}

std::vector<Block> DeliveryQueue::take_batch() {
  std::size_t count = 0;
  std::uint64_t memory = 0;
  std::uint64_t views = 0;
  // One block more than the batch takes is formed, for it is the front then.
  for (std::size_t i = 0; i < blocks_.size() || form_next(); ++i) {
    const Block& block = blocks_[i];
    const std::uint64_t needs = block.buffer ? block.buffer->capacity : 0;
    const std::uint64_t viewed = block.memory == BlockMemory::kView ? block.bytes : 0;
    if (!block.done() || count == kBatchBlocks) break;
    if (count > 0 && (memory + needs > kBatchMemory || views + viewed > kBatchViews)) break;
    // The consumer has left a file when it comes back from the first batch of another one.
    if (views > 0 && block.file().object != blocks_.front().file().object) break;
    memory += needs;
    views += viewed;
    ++count;
  }
  std::vector<Block> batch;
  Leases leases;
  batch.reserve(count);
  leases.reserve(count);
  for (; batch.size() < count; ++begin_) {
    if (blocks_.front().buffer) leases.push_back(blocks_.front().buffer->lease);
    batch.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
  }
  stop_counting(delivered_before_);
  if (count > 0) {
    delivered_before_ = std::move(delivered_);
    delivered_ = std::move(leases);
  }
  return batch;
}

void DeliveryQueue::stop_counting_delivered() {
  for (Leases* leases : {&delivered_, &delivered_before_}) {
    stop_counting(*leases);
    leases->clear();
  }
}

void DeliveryQueue::stop_counting(const Leases& leases) {
  for (const auto& lease : leases) pool_->stop_counting(*lease);
}

}  // namespace streamer
