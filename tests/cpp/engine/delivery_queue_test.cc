#include "engine/delivery_queue.h"

#include <gtest/gtest.h>

#include "engine/fake_address_space.h"
#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::FakeAddressSpace;
using testing::kKiB;
using testing::kMiB;

class DeliveryQueueTest : public ::testing::Test {
 protected:
  // Adds a block of that size, without a buffer if it is 0, whose bytes have not arrived.
  void add(std::uint64_t bytes) {
    Block block;
    block.bytes = block.data_bytes = bytes;
    block.first = added_++;
    if (bytes > 0) {
      block.buffer = pool_->map(std::move(*pool_->reserve(bytes, Pages::kSmall, false)));
    }
    std::vector<Block> blocks;
    blocks.push_back(std::move(block));
    queue_.add(std::move(blocks));
  }
  void complete(DeliveryQueue::Number number) {
    queue_.at(number).completed = queue_.at(number).bytes;
  }

  FakeAddressSpace space_;
  const std::shared_ptr<MemoryBudget> budget_ =
      std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  const std::shared_ptr<MemoryPool> pool_ = MemoryPool::create(budget_, space_);
  DeliveryQueue queue_{pool_};
  std::uint32_t added_ = 0;
};

TEST_F(DeliveryQueueTest, GivesWhatIsCompleteAtTheFront) {
  for (int i = 0; i < 4; ++i) add(kKiB);
  complete(1);
  complete(3);
  EXPECT_FALSE(queue_.front_done());
  EXPECT_TRUE(queue_.take_batch().empty());
  complete(0);
  EXPECT_TRUE(queue_.front_done());
  const auto batch = queue_.take_batch();
  ASSERT_EQ(batch.size(), 2u);
  EXPECT_EQ(batch[0].first, 0u);
  EXPECT_EQ(batch[1].first, 1u);
  EXPECT_EQ(queue_.begin(), 2u);
  EXPECT_EQ(queue_.end(), 4u);
  EXPECT_EQ(queue_.at(2).first, 2u);
}

TEST_F(DeliveryQueueTest, ABatchIsSmallUnlessOneBlockIsLarge) {
  for (const std::uint64_t mib : {5, 3, 1, 20, 1}) add(mib * kMiB);
  for (int i = 0; i < 70; ++i) add(0);
  for (DeliveryQueue::Number i = 0; i < queue_.end(); ++i) complete(i);
  std::vector<std::size_t> sizes;
  while (!queue_.empty()) sizes.push_back(queue_.take_batch().size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{2, 1, 1, 64, 7}));
}

TEST_F(DeliveryQueueTest, ReferencesToBlocksStayValid) {
  add(0);
  Block& first = queue_.at(0);
  for (int i = 0; i < 1000; ++i) add(0);
  EXPECT_TRUE(queue_.is_front(first));
  Block& last = queue_.at(1000);
  while (queue_.begin() < 900) (void)queue_.take_batch();
  for (int i = 0; i < 1000; ++i) add(0);
  EXPECT_EQ(&queue_.at(1000), &last);
}

TEST_F(DeliveryQueueTest, WhatTheConsumerKeepsCountsUntilItCameBackTwice) {
  for (int i = 0; i < 4; ++i) {
    add(5 * kMiB);
    complete(i);
  }
  std::vector<std::vector<Block>> kept;
  for (const std::uint64_t counted : {20, 20, 15, 10}) {
    kept.push_back(queue_.take_batch());
    EXPECT_EQ(budget_->used(), counted * kMiB);
  }
  queue_.stop_counting_delivered();
  EXPECT_EQ(budget_->used(), 0u);
}

}  // namespace
}  // namespace streamer
