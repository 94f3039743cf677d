#include "base/memory_budget.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace streamer {
namespace {

TEST(MemoryBudget, GivesUpToItsLimit) {
  MemoryBudget budget(100);
  EXPECT_TRUE(budget.try_take(60));
  EXPECT_FALSE(budget.try_take(41));
  EXPECT_TRUE(budget.try_take(40));
  EXPECT_FALSE(budget.try_take(1));
  budget.give_back(40);
  EXPECT_TRUE(budget.try_take(30));
  EXPECT_EQ(budget.used(), 90u);
}

TEST(MemoryBudget, TakesBeyondTheLimitWhatMustBe) {
  MemoryBudget budget(100);
  budget.take(150);
  EXPECT_EQ(budget.used(), 150u);
  EXPECT_FALSE(budget.try_take(1));
}

TEST(MemoryBudget, RemembersItsPeak) {
  MemoryBudget budget(100);
  ASSERT_TRUE(budget.try_take(80));
  budget.give_back(70);
  ASSERT_TRUE(budget.try_take(20));
  EXPECT_EQ(budget.peak(), 80u);
}

TEST(MemoryBudget, WithoutALimitGivesEverything) {
  MemoryBudget budget(MemoryBudget::kUnlimited);
  EXPECT_TRUE(budget.try_take(std::uint64_t{1} << 62));
  EXPECT_TRUE(budget.try_take(std::uint64_t{1} << 62));
}

TEST(MemoryBudget, DoesNotOverflow) {
  MemoryBudget budget(100);
  ASSERT_TRUE(budget.try_take(50));
  EXPECT_FALSE(budget.try_take(MemoryBudget::kUnlimited));
  EXPECT_FALSE(budget.try_take(MemoryBudget::kUnlimited - 49));
}

TEST(MemoryBudget, ThreadsTogetherStayBelowTheLimit) {
  MemoryBudget budget(10);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20000; ++round) {
        if (budget.try_take(3)) budget.give_back(3);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(budget.peak(), 10u);
  EXPECT_EQ(budget.used(), 0u);
}

}  // namespace
}  // namespace streamer
