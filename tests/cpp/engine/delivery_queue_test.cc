#include "engine/delivery_queue.h"

#include <gtest/gtest.h>

#include "engine/fake_address_space.h"
#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::FakeAddressSpace;
using testing::FakeObject;
using testing::kKiB;
using testing::kMiB;

class DeliveryQueueTest : public ::testing::Test {
 protected:
  // Adds a block of that size, without a buffer if it is 0, whose bytes have not arrived.
  void add(std::uint64_t bytes) {
    auto submission = std::make_shared<Submission>();
    submission->id = added_++;
    submission->entries.push_back({0, {{0, bytes}}});
    ASSERT_TRUE(find_files(files_, submission.get()).ok());
    auto plan = Plan::make(submission, MemoryBudget::kUnlimited);
    ASSERT_TRUE(plan.ok()) << plan.status().to_string();
    queue_.add(std::move(*plan));
    while (queue_.form_next()) {
    }
    Block& block = queue_.at(queue_.end() - 1);
    if (bytes > 0) {
      block.buffer = pool_->map(std::move(*pool_->reserve(bytes, Pages::kSmall, false)));
    }
  }
  void complete(DeliveryQueue::Number number) {
    queue_.at(number).completed = queue_.at(number).bytes;
  }

  FakeAddressSpace space_;
  const std::shared_ptr<MemoryBudget> budget_ =
      std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  const std::shared_ptr<MemoryPool> pool_ = MemoryPool::create(budget_, space_);
  DeliveryQueue queue_{pool_};
  const FileTable files_{std::make_shared<FileState>(FileState{
      "object", SourceKind::kFile, std::make_shared<FakeObject>(0, 64 * kMiB, false), {}, 0})};
  std::uint64_t added_ = 0;
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
  EXPECT_EQ(batch[0].submission->id, 0u);
  EXPECT_EQ(batch[1].submission->id, 1u);
  EXPECT_EQ(queue_.begin(), 2u);
  EXPECT_EQ(queue_.end(), 4u);
  EXPECT_EQ(queue_.at(2).submission->id, 2u);
}

TEST_F(DeliveryQueueTest, ABatchIsSmallUnlessOneBlockIsLarge) {
  for (const std::uint64_t mib : {5, 3, 1, 20, 1}) add(mib * kMiB);
  for (int i = 0; i < 70; ++i) add(0);
  for (DeliveryQueue::Number i = 0; i < queue_.end(); ++i) complete(i);
  std::vector<std::size_t> sizes;
  while (!queue_.empty()) sizes.push_back(queue_.take_batch().size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{2, 1, 1, 64, 7}));
}

TEST_F(DeliveryQueueTest, FormsBlocksWhenTheyAreWanted) {
  auto submission = std::make_shared<Submission>();
  submission->entries.push_back({0, {{0, kMiB}, {kMiB, kMiB}, {2 * kMiB, kMiB}}});
  ASSERT_TRUE(find_files(files_, submission.get()).ok());
  auto plan = Plan::make(submission, MemoryBudget::kUnlimited);
  ASSERT_TRUE(plan.ok());
  queue_.add(std::move(*plan));
  EXPECT_EQ(queue_.end(), 1u);
  EXPECT_FALSE(queue_.all_formed());
  complete(0);
  EXPECT_EQ(queue_.take_batch().size(), 1u);
  EXPECT_FALSE(queue_.empty());
  EXPECT_EQ(queue_.end(), 2u);
  EXPECT_TRUE(queue_.form_next());
  EXPECT_TRUE(queue_.all_formed());
  EXPECT_FALSE(queue_.form_next());
}

TEST_F(DeliveryQueueTest, ABatchReachesBlocksWithoutBytesThatNobodyHasFormed) {
  auto submission = std::make_shared<Submission>();
  submission->entries = {{0, {{0, 0}}}, {0, {}}, {0, {{1, 0}}}, {0, {{0, 1}}}};
  ASSERT_TRUE(find_files(files_, submission.get()).ok());
  auto plan = Plan::make(submission, MemoryBudget::kUnlimited);
  ASSERT_TRUE(plan.ok());
  queue_.add(std::move(*plan));
  EXPECT_TRUE(queue_.front_done());
  EXPECT_EQ(queue_.take_batch().size(), 2u);
  EXPECT_FALSE(queue_.front_done());
  EXPECT_EQ(queue_.at(2).entry, 3u);
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
