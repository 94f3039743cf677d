#include "engine/block_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "base/memory_units.h"

namespace streamer {
namespace {

class BlockPoolTest : public ::testing::Test {
 protected:
  std::shared_ptr<BlockPool::Memory> allocate(std::uint64_t bytes, bool force = false) {
    bool refused = false;
    auto memory = pool_->allocate(bytes, Pages::kHuge, force, &refused);
    EXPECT_FALSE(refused);
    return memory;
  }

  const std::shared_ptr<MemoryBudget> budget_ = std::make_shared<MemoryBudget>(10 * kMiB);
  const std::shared_ptr<BlockPool> pool_ = BlockPool::create(budget_);
};

TEST_F(BlockPoolTest, GivesWritableMemoryAlignedTo64) {
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{100'000}, kMiB, 5 * kMiB}) {
    const auto memory = allocate(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_GE(memory->capacity, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data) % 64, 0u);
    std::memset(memory->data, 1, memory->capacity);
  }
}

TEST_F(BlockPoolTest, CountsWhatItGives) {
  const auto memory = allocate(3 * kMiB);
  EXPECT_EQ(budget_->used(), 3 * kMiB);
}

TEST_F(BlockPoolTest, GivesNothingWhereTheBudgetHasNoRoom) {
  const auto memory = allocate(8 * kMiB);
  EXPECT_EQ(allocate(3 * kMiB), nullptr);
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(BlockPoolTest, GivesBeyondTheBudgetWhenForced) {
  const auto memory = allocate(8 * kMiB);
  EXPECT_NE(allocate(3 * kMiB, /*force=*/true), nullptr);
  EXPECT_EQ(budget_->peak(), 11 * kMiB);
}

TEST_F(BlockPoolTest, GivesTheSameMemoryAgain) {
  auto memory = allocate(kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  EXPECT_EQ(allocate(kMiB)->data, place);
}

TEST_F(BlockPoolTest, GivesWhatWasDroppedLast) {
  auto first = allocate(kMiB);
  auto second = allocate(kMiB);
  const std::byte* data = second->data;
  first.reset();
  second.reset();
  EXPECT_EQ(allocate(kMiB)->data, data);
}

TEST_F(BlockPoolTest, GivesAlsoMemoryThatIsALittleTooLarge) {
  auto memory = allocate(kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  const auto again = allocate(kMiB - 100'000);
  EXPECT_EQ(again->data, place);
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(BlockPoolTest, DoesNotWasteMemoryThatIsMuchTooLarge) {
  auto memory = allocate(4 * kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  EXPECT_NE(allocate(kMiB)->data, place);
}

TEST_F(BlockPoolTest, EvictsWhatItKeepsForAnotherSize) {
  allocate(8 * kMiB).reset();
  EXPECT_EQ(budget_->used(), 8 * kMiB);  // kept
  EXPECT_NE(allocate(3 * kMiB), nullptr);
  EXPECT_LE(budget_->used(), 10 * kMiB);
}

TEST_F(BlockPoolTest, CutsWhatIsTooLarge) {
  auto memory = allocate(8 * kMiB);
  std::byte* place = memory->data;
  memory.reset();
  const auto front = allocate(4 * kMiB);
  const auto back = allocate(4 * kMiB);
  EXPECT_EQ(front->data, place);
  EXPECT_EQ(back->data, place + 4 * kMiB);
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(BlockPoolTest, JoinsWhatIsTooSmall) {
  auto one = allocate(4 * kMiB);
  auto two = allocate(4 * kMiB);
  std::memset(one->data, 1, one->capacity);
  std::memset(two->data, 1, two->capacity);
  one.reset();
  two.reset();
  // 2 MiB more than what is kept, which is all that the budget has.
  const auto joined = allocate(10 * kMiB);
  ASSERT_NE(joined, nullptr);
  EXPECT_EQ(budget_->used(), 10 * kMiB);
  // The pages are those of before: nothing was copied, nothing is fresh.
  EXPECT_EQ(joined->data[0], std::byte{1});
  EXPECT_EQ(joined->data[8 * kMiB - 1], std::byte{1});
  EXPECT_EQ(joined->data[8 * kMiB], std::byte{0});
  std::memset(joined->data, 2, joined->capacity);
}

TEST_F(BlockPoolTest, JoinsOnlyAsMuchAsIsNeeded) {
  auto one = allocate(4 * kMiB);
  auto two = allocate(4 * kMiB);
  one.reset();
  two.reset();
  const auto joined = allocate(6 * kMiB);
  ASSERT_NE(joined, nullptr);
  EXPECT_EQ(joined->capacity, 6 * kMiB);
  EXPECT_EQ(budget_->used(), 8 * kMiB);  // the rest is kept
  std::memset(joined->data, 2, joined->capacity);
}

TEST_F(BlockPoolTest, JoinsBlocksThatAreNoWholeHugePages) {
  auto one = allocate(4 * kMiB + 8192);
  auto two = allocate(4 * kMiB + 8192);
  one.reset();
  two.reset();
  auto joined = allocate(7 * kMiB + 8192);
  ASSERT_NE(joined, nullptr);
  EXPECT_EQ(joined->capacity, 8 * kMiB);
  std::memset(joined->data, 2, joined->capacity);
  EXPECT_EQ(budget_->used(), 8 * kMiB);
  joined.reset();
  pool_->close();
  EXPECT_EQ(budget_->used(), 0u);
}

TEST_F(BlockPoolTest, WhatTheCallerKeepsCountsNoMore) {
  const auto memory = allocate(8 * kMiB);
  pool_->uncount(*memory->lease);
  EXPECT_EQ(budget_->used(), 0u);
  pool_->uncount(*memory->lease);  // once
  EXPECT_EQ(budget_->used(), 0u);
  EXPECT_NE(allocate(8 * kMiB), nullptr);
}

TEST_F(BlockPoolTest, WhatWasUncountedCountsAgainWhenItIsKeptForReuse) {
  auto memory = allocate(kMiB);
  pool_->uncount(*memory->lease);
  memory.reset();
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(BlockPoolTest, WhatWasUncountedIsFreedWhereTheBudgetIsFull) {
  auto memory = allocate(8 * kMiB);
  pool_->uncount(*memory->lease);
  const auto other = allocate(8 * kMiB);
  memory.reset();
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(BlockPoolTest, UncountingMemoryThatWasDroppedDoesNothing) {
  auto memory = allocate(kMiB);
  const auto lease = memory->lease;
  memory.reset();
  const auto again = allocate(kMiB);  // the same memory, another lease
  pool_->uncount(*lease);
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(BlockPoolTest, KeepsNothingOnceClosed) {
  allocate(4 * kMiB).reset();
  pool_->close();
  EXPECT_EQ(budget_->used(), 0u);
  allocate(4 * kMiB).reset();
  EXPECT_EQ(budget_->used(), 0u);
}

TEST(BlockPool, BlocksOutliveThePool) {
  auto budget = std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  auto pool = BlockPool::create(budget);
  bool refused = false;
  auto memory = pool->allocate(kMiB, Pages::kHuge, false, &refused);
  pool->close();
  pool.reset();
  std::memset(memory->data, 7, kMiB);
  EXPECT_EQ(memory->data[kMiB - 1], std::byte{7});
  memory.reset();
  EXPECT_EQ(budget->used(), 0u);
}

// Whether the system was asked for huge pages there.
bool asks_for_huge_pages(const std::byte* data) {
  std::ifstream maps("/proc/self/smaps");
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx ", &begin, &end) == 2) {
      here = begin <= address && address < end;
    } else if (here && line.starts_with("VmFlags:")) {
      return line.find(" hg") != std::string::npos;
    }
  }
  return false;
}

TEST(BlockPool, AsksForHugePagesWhereTheyAreWanted) {
  auto pool = BlockPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  bool refused = false;
  const auto small = pool->allocate(8 * kMiB, Pages::kSmall, false, &refused);
  EXPECT_FALSE(asks_for_huge_pages(small->data));
  const auto huge = pool->allocate(8 * kMiB, Pages::kHuge, false, &refused);
  EXPECT_TRUE(asks_for_huge_pages(huge->data));
}

TEST(BlockPool, TellsWhenMemoryComesBack) {
  struct Listener : MemoryListener {
    void memory_returned() override { ++times; }
    int times = 0;
  };
  auto pool = BlockPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  auto listener = std::make_shared<Listener>();
  pool->set_listener(listener);
  bool refused = false;
  pool->allocate(kMiB, Pages::kHuge, false, &refused).reset();
  pool->allocate(100, Pages::kHuge, false, &refused).reset();
  EXPECT_EQ(listener->times, 2);
  auto memory = pool->allocate(kMiB, Pages::kHuge, false, &refused);
  listener.reset();
  memory.reset();  // nobody listens any more
}

TEST(BlockPool, SaysThatTheSystemHasNoMemory) {
  auto budget = std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  auto pool = BlockPool::create(budget);
  bool refused = false;
  EXPECT_EQ(pool->allocate(std::uint64_t{1} << 60, Pages::kHuge, false, &refused), nullptr);
  EXPECT_TRUE(refused);
  EXPECT_EQ(budget->used(), 0u);
}

TEST(BlockPool, AForkedChildMayDropMemory) {
  auto pool = BlockPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  bool refused = false;
  auto memory = pool->allocate(kMiB, Pages::kHuge, false, &refused);
  const pid_t child = fork();
  if (child == 0) {
    memory.reset();
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(memory->data[0], std::byte{0});
}

}  // namespace
}  // namespace streamer
