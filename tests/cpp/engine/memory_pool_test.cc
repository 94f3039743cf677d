#include "engine/memory_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/memory_units.h"
#include "engine/allocate.h"
#include "engine/fake_address_space.h"

namespace streamer {
namespace {

using testing::allocate_from;

class MemoryPoolTest : public ::testing::Test {
 protected:
  std::shared_ptr<MemoryPool::Buffer> allocate(std::uint64_t bytes, bool force = false) {
    bool refused = false;
    auto memory = allocate_from(*pool_, bytes, Pages::kHuge, force, &refused);
    EXPECT_FALSE(refused);
    return memory;
  }

  const std::shared_ptr<MemoryBudget> budget_ = std::make_shared<MemoryBudget>(10 * kMiB);
  const std::shared_ptr<MemoryPool> pool_ = MemoryPool::create(budget_);
};

TEST_F(MemoryPoolTest, GivesWritableMemoryAlignedTo64) {
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{100'000}, kMiB, 5 * kMiB}) {
    const auto memory = allocate(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_GE(memory->capacity, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data) % 64, 0u);
    std::memset(memory->data, 1, memory->capacity);
  }
}

TEST_F(MemoryPoolTest, CountsWhatItGives) {
  const auto memory = allocate(3 * kMiB);
  EXPECT_EQ(budget_->used(), 3 * kMiB);
}

TEST_F(MemoryPoolTest, GivesNothingWhereTheBudgetHasNoRoom) {
  const auto memory = allocate(8 * kMiB);
  EXPECT_EQ(allocate(3 * kMiB), nullptr);
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(MemoryPoolTest, GivesBeyondTheBudgetWhenForced) {
  const auto memory = allocate(8 * kMiB);
  EXPECT_NE(allocate(3 * kMiB, /*force=*/true), nullptr);
  EXPECT_EQ(budget_->peak(), 11 * kMiB);
}

TEST_F(MemoryPoolTest, GivesTheSameMemoryAgain) {
  auto memory = allocate(kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  EXPECT_EQ(allocate(kMiB)->data, place);
}

TEST_F(MemoryPoolTest, GivesWhatWasDroppedLast) {
  auto first = allocate(kMiB);
  auto second = allocate(kMiB);
  const std::byte* data = second->data;
  first.reset();
  second.reset();
  EXPECT_EQ(allocate(kMiB)->data, data);
}

TEST_F(MemoryPoolTest, GivesAlsoMemoryThatIsALittleTooLarge) {
  auto memory = allocate(kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  const auto again = allocate(kMiB - 100'000);
  EXPECT_EQ(again->data, place);
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(MemoryPoolTest, DoesNotWasteMemoryThatIsMuchTooLarge) {
  auto memory = allocate(4 * kMiB);
  const std::byte* place = memory->data;
  memory.reset();
  EXPECT_NE(allocate(kMiB)->data, place);
}

TEST_F(MemoryPoolTest, EvictsWhatItKeepsForAnotherSize) {
  allocate(8 * kMiB).reset();
  EXPECT_EQ(budget_->used(), 8 * kMiB);  // kept
  EXPECT_NE(allocate(3 * kMiB), nullptr);
  EXPECT_LE(budget_->used(), 10 * kMiB);
}

TEST_F(MemoryPoolTest, CutsWhatIsTooLarge) {
  auto memory = allocate(8 * kMiB);
  std::byte* place = memory->data;
  memory.reset();
  const auto front = allocate(4 * kMiB);
  const auto back = allocate(4 * kMiB);
  EXPECT_EQ(front->data, place);
  EXPECT_EQ(back->data, place + 4 * kMiB);
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(MemoryPoolTest, JoinsWhatIsTooSmall) {
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

TEST_F(MemoryPoolTest, JoinsOnlyAsMuchAsIsNeeded) {
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

TEST_F(MemoryPoolTest, JoinsBlocksThatAreNoWholeHugePages) {
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

TEST_F(MemoryPoolTest, WhatTheCallerKeepsCountsNoMore) {
  const auto memory = allocate(8 * kMiB);
  pool_->stop_counting(*memory->lease);
  EXPECT_EQ(budget_->used(), 0u);
  pool_->stop_counting(*memory->lease);  // once
  EXPECT_EQ(budget_->used(), 0u);
  EXPECT_NE(allocate(8 * kMiB), nullptr);
}

TEST_F(MemoryPoolTest, WhatWasUncountedCountsAgainWhenItIsKeptForReuse) {
  auto memory = allocate(kMiB);
  pool_->stop_counting(*memory->lease);
  memory.reset();
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(MemoryPoolTest, WhatWasUncountedIsFreedWhereTheBudgetIsFull) {
  auto memory = allocate(8 * kMiB);
  pool_->stop_counting(*memory->lease);
  const auto other = allocate(8 * kMiB);
  memory.reset();
  EXPECT_EQ(budget_->used(), 8 * kMiB);
}

TEST_F(MemoryPoolTest, UncountingMemoryThatWasDroppedDoesNothing) {
  auto memory = allocate(kMiB);
  const auto lease = memory->lease;
  memory.reset();
  const auto again = allocate(kMiB);  // the same memory, another lease
  pool_->stop_counting(*lease);
  EXPECT_EQ(budget_->used(), kMiB);
}

TEST_F(MemoryPoolTest, KeepsNothingOnceClosed) {
  allocate(4 * kMiB).reset();
  pool_->close();
  EXPECT_EQ(budget_->used(), 0u);
  allocate(4 * kMiB).reset();
  EXPECT_EQ(budget_->used(), 0u);
}

class MemoryPoolOfFakeSpace : public ::testing::Test {
 protected:
  using Buffer = std::shared_ptr<MemoryPool::Buffer>;

  Buffer allocate(std::uint64_t bytes) {
    bool refused = false;
    return allocate_from(*pool_, bytes, Pages::kSmall, /*force=*/false, &refused);
  }

  testing::FakeAddressSpace space_;
  const std::shared_ptr<MemoryBudget> budget_ = std::make_shared<MemoryBudget>(20 * kMiB);
  const std::shared_ptr<MemoryPool> pool_ = MemoryPool::create(budget_, space_);
};

TEST_F(MemoryPoolOfFakeSpace, EvictsNoMoreThanIsNeeded) {
  allocate(18 * kMiB).reset();
  const Buffer small = allocate(3 * kMiB);
  ASSERT_NE(small, nullptr);
  EXPECT_EQ(space_.mapped(), (14 + 3) * kMiB);
  EXPECT_EQ(budget_->used(), (14 + 3) * kMiB);
  EXPECT_FALSE(space_.broken());
}

TEST_F(MemoryPoolOfFakeSpace, EvictsTheSmallestPieceThatIsLargeEnough) {
  Buffer large = allocate(10 * kMiB);
  Buffer fits = allocate(3 * kMiB + 512 * kKiB);
  Buffer small = allocate(kMiB);
  for (Buffer* buffer : {&large, &fits, &small}) buffer->reset();
  budget_->set_limit(budget_->used());
  const Buffer other = allocate(2 * kMiB);
  ASSERT_NE(other, nullptr);
  Buffer again = allocate(10 * kMiB);
  EXPECT_NE(again, nullptr) << "it is still kept";
  EXPECT_EQ(space_.mapped(), budget_->used());
}

TEST_F(MemoryPoolOfFakeSpace, MemoryThatTheCallerKeepsIsContiguous) {
  std::vector<Buffer> kept;
  int gaps = 0;
  for (int i = 0; i < 100; ++i) {
    kept.push_back(allocate(5 * kMiB));
    ASSERT_NE(kept.back(), nullptr);
    if (i > 0) gaps += kept[i]->data != kept[i - 1]->data + 5 * kMiB ? 1 : 0;
    pool_->stop_counting(*kept.back()->lease);
  }
  EXPECT_LE(gaps, 17);
  // A buffer that was dropped is not kept.
  const auto other = MemoryPool::create(budget_, space_);
  for (int i = 0; i < 100; ++i) {
    bool refused = false;
    Buffer dropped = allocate_from(*other, 5 * kMiB, Pages::kSmall, /*force=*/false, &refused);
    ASSERT_NE(dropped, nullptr);
    const auto lease = dropped->lease;
    dropped.reset();
    other->stop_counting(*lease);
  }
  bool refused = false;
  const Buffer aligned = allocate_from(*other, 9 * kMiB, Pages::kSmall, /*force=*/false, &refused);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned->data) % kHugePage, 0u);
}

// Buffers of a closed pool are not kept, and have their memory until it is released.
TEST_F(MemoryPoolOfFakeSpace, NobodyIsForcedBesideMemoryThatIsOnItsWayBack) {
  budget_->set_limit(2 * kMiB);
  Buffer dropped = allocate(kMiB);
  pool_->close();
  int releases = 0;
  space_.on_release = [&] {
    ++releases;
    EXPECT_FALSE(pool_->reserve(1500 * kKiB, Pages::kSmall, /*force=*/true).has_value());
    EXPECT_TRUE(pool_->reserve(kMiB, Pages::kSmall, /*force=*/true).has_value());
  };
  dropped.reset();
  EXPECT_EQ(releases, 1);
  EXPECT_TRUE(pool_->reserve(1500 * kKiB, Pages::kSmall, /*force=*/true).has_value());
  EXPECT_TRUE(pool_->reserve(3 * kMiB, Pages::kSmall, /*force=*/true).has_value());
}

TEST_F(MemoryPoolOfFakeSpace, EvictsNothingInVain) {
  const Buffer held = allocate(12 * kMiB);
  allocate(4 * kMiB).reset();
  EXPECT_EQ(allocate(10 * kMiB), nullptr);
  EXPECT_EQ(space_.mapped(), 16 * kMiB);
  EXPECT_EQ(budget_->used(), 16 * kMiB);
}

TEST_F(MemoryPoolOfFakeSpace, ReservingMakesNoSystemCallAndCountsAtOnce) {
  allocate(8 * kMiB).reset();
  const std::uint64_t mapped = space_.mapped();
  const auto fresh = pool_->reserve(12 * kMiB, Pages::kSmall, /*force=*/false);
  ASSERT_TRUE(fresh.has_value());
  EXPECT_TRUE(fresh->needs_system_calls());
  EXPECT_EQ(space_.mapped(), mapped);
  EXPECT_GE(budget_->used(), 12 * kMiB);
  EXPECT_FALSE(pool_->reserve(12 * kMiB, Pages::kSmall, /*force=*/false).has_value());
}

TEST_F(MemoryPoolOfFakeSpace, AKeptPieceThatFitsNeedsNoSystemCall) {
  allocate(kMiB).reset();
  auto reservation = pool_->reserve(kMiB, Pages::kSmall, /*force=*/false);
  ASSERT_TRUE(reservation.has_value());
  EXPECT_FALSE(reservation->needs_system_calls());
  EXPECT_NE(pool_->map(std::move(*reservation)), nullptr);
}

TEST_F(MemoryPoolOfFakeSpace, AReservationThatIsDroppedGoesBack) {
  Buffer one = allocate(6 * kMiB);
  Buffer other = allocate(7 * kMiB + 512 * kKiB);
  one.reset();
  other.reset();
  const std::uint64_t used = budget_->used();
  for (const std::uint64_t mib : {1, 4, 6, 10, 13, 14, 20}) {
    (void)pool_->reserve(mib * kMiB, Pages::kSmall, /*force=*/false);
    EXPECT_LE(budget_->used(), used) << mib;
    EXPECT_EQ(space_.mapped(), budget_->used()) << mib;
  }
  EXPECT_FALSE(space_.broken());
}

// Whatever call of the system fails: a buffer or none, and right accounts.
TEST_F(MemoryPoolOfFakeSpace, ARefusedCallLeavesRightAccounts) {
  for (int call = 1; call <= 40; ++call) {
    space_.refuse(call);
    std::mt19937 random(7);
    std::vector<Buffer> held;
    for (int i = 0; i < 60; ++i) {
      if (!held.empty() && random() % 2 == 0) {
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(random() % held.size()));
      }
      const std::uint64_t bytes = (3 + random() % 94) * 100 * kKiB + random() % 2 * 4000;
      if (Buffer buffer = allocate(bytes)) held.push_back(std::move(buffer));
      ASSERT_EQ(space_.mapped(), budget_->used()) << "call " << call << ", step " << i;
      ASSERT_LE(budget_->used(), budget_->limit());
      ASSERT_FALSE(space_.broken());
    }
  }
  pool_->close();
  EXPECT_EQ(space_.mapped(), 0u);
  EXPECT_EQ(budget_->used(), 0u);
}

TEST(MemoryPool, BlocksOutliveThePool) {
  auto budget = std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  auto pool = MemoryPool::create(budget);
  bool refused = false;
  auto memory = allocate_from(*pool, kMiB, Pages::kHuge, false, &refused);
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

TEST(MemoryPool, AsksForHugePagesWhereTheyAreWanted) {
  auto pool = MemoryPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  bool refused = false;
  const auto small = allocate_from(*pool, 8 * kMiB, Pages::kSmall, false, &refused);
  EXPECT_FALSE(asks_for_huge_pages(small->data));
  const auto huge = allocate_from(*pool, 8 * kMiB, Pages::kHuge, false, &refused);
  EXPECT_TRUE(asks_for_huge_pages(huge->data));
}

TEST(MemoryPool, TellsWhenMemoryComesBack) {
  struct Listener : MemoryListener {
    void memory_returned() override { ++times; }
    int times = 0;
  };
  auto pool = MemoryPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  auto listener = std::make_shared<Listener>();
  pool->set_listener(listener);
  bool refused = false;
  allocate_from(*pool, kMiB, Pages::kHuge, false, &refused).reset();
  allocate_from(*pool, 100, Pages::kHuge, false, &refused).reset();
  EXPECT_EQ(listener->times, 2);
  auto memory = allocate_from(*pool, kMiB, Pages::kHuge, false, &refused);
  listener.reset();
  memory.reset();  // nobody listens any more
}

TEST(MemoryPool, SaysThatTheSystemHasNoMemory) {
  auto budget = std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
  auto pool = MemoryPool::create(budget);
  bool refused = false;
  EXPECT_EQ(allocate_from(*pool, std::uint64_t{1} << 60, Pages::kHuge, false, &refused), nullptr);
  EXPECT_TRUE(refused);
  EXPECT_EQ(budget->used(), 0u);
}

// ThreadSanitizer leaves no room for terabytes of addresses.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_THREAD_SANITIZER
#endif
#endif
#ifndef UNDER_THREAD_SANITIZER
std::size_t mappings_of_this_process() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<std::size_t>(
      std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
}

// A process may have 65,530 mappings. Nothing is written here: address space is all that this
// takes.
TEST(MemoryPool, KeptBlocksBecomeFewMappings) {
  for (const std::uint64_t bytes : {14 * kMiB, 14 * kMiB + 4096, 3 * kMiB}) {
    SCOPED_TRACE(bytes);
    const Pages pages = bytes > 14 * kMiB ? Pages::kSmall : Pages::kHuge;
    const auto budget = std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited);
    const auto pool = MemoryPool::create(budget);
    const std::size_t before = mappings_of_this_process();
    std::vector<std::shared_ptr<MemoryPool::Buffer>> kept;
    for (int i = 0; i < 140'000; ++i) {
      bool refused = false;
      kept.push_back(allocate_from(*pool, bytes, pages, false, &refused));
      ASSERT_NE(kept.back(), nullptr) << i;
      pool->stop_counting(*kept.back()->lease);
    }
    EXPECT_LT(mappings_of_this_process(), before + 1000);
  }
}
#endif

TEST(MemoryPool, AForkedChildMayDropMemory) {
  auto pool = MemoryPool::create(std::make_shared<MemoryBudget>(MemoryBudget::kUnlimited));
  bool refused = false;
  auto memory = allocate_from(*pool, kMiB, Pages::kHuge, false, &refused);
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
