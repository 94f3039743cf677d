#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/fake_storage.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;
using testing::Crew;
using testing::Gate;
using testing::kKiB;
using testing::kMiB;
using testing::row;

TEST(Scheduler, DeliversInTheOrderOfSubmissionWhateverEndsFirst) {
  std::atomic<int> reads{0};
  Crew crew({.chunk_bytes = 256 * kKiB, .concurrency = 8, .on_read = [&reads](const Chunk&) {
               // Every third read takes long.
               if (reads++ % 3 == 0) std::this_thread::sleep_for(milliseconds(5));
               return Status();
             }});
  const auto one = crew.add_file(8 * kMiB);
  const auto other = crew.add_file(8 * kMiB);
  ASSERT_TRUE(crew.submit({row(other, 16, 512 * kKiB), row(one, 16, 512 * kKiB)}).ok());
  std::vector<std::pair<std::uint32_t, std::uint32_t>> order;
  ASSERT_TRUE(crew.drain([&](Block block) { order.emplace_back(block.entry, block.first); }));
  EXPECT_EQ(order.size(), 32u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

// The worker that fails the rest of the block finds nothing else to do, and parks.
TEST(Scheduler, WakesTheConsumerWhenTheRestOfABlockFailsWithoutARead) {
  for (int round = 0; round < 20; ++round) {
    Crew crew({.chunk_bytes = kMiB, .concurrency = 1, .on_read = [](const Chunk&) {
                 return Status::error(Code::kIo, "no");
               }});
    const auto file = crew.add_file(4 * kMiB);
    ASSERT_TRUE(crew.submit({row(file, 1, 4 * kMiB)}).ok());
    bool finished = false;
    const auto blocks = crew.next(&finished, milliseconds(20000));
    ASSERT_EQ(blocks.size(), 1U);
    EXPECT_EQ(blocks[0].status.code(), Code::kIo);
    EXPECT_EQ(crew.chunk_sizes().size(), 1U);
  }
}

TEST(Scheduler, SplitsALargeRangeOverReads) {
  Crew crew({.chunk_bytes = kMiB});
  const auto file = crew.add_file(10 * kMiB + 5);
  ASSERT_TRUE(crew.submit({row(file, 1, 10 * kMiB + 5)}).ok());
  ASSERT_TRUE(crew.drain());
  const auto sizes = crew.chunk_sizes();
  EXPECT_GE(sizes.size(), 10u);
  for (const std::uint64_t size : sizes) EXPECT_LE(size, kMiB);
  EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0}), 10 * kMiB + 5);
}

TEST(Scheduler, ReadsNeighbouringBlocksAtOnce) {
  Crew crew({.chunk_bytes = 4 * kMiB, .concurrency = 1});
  const auto file = crew.add_file(4 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 8, 512 * kKiB)}).ok());
  ASSERT_TRUE(crew.drain());
  EXPECT_EQ(crew.chunk_sizes().size(), 1u);
}

TEST(Scheduler, LeavesOutWhatNobodyWants) {
  Crew crew({.chunk_bytes = 4 * kMiB, .concurrency = 1});
  const auto file = crew.add_file(4 * kMiB);
  FileRanges wanted{file, {{0, 1000}, {1000, 24}, {5000, 1000}, {3 * kMiB, kMiB}}};
  ASSERT_TRUE(crew.submit({wanted}).ok());
  ASSERT_TRUE(crew.drain());
  const auto sizes = crew.chunk_sizes();
  EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0}), 2024 + kMiB);
}

TEST(Scheduler, NeverExceedsTheBudgetOfAConsumerThatDropsWhatItGot) {
  Crew crew({.memory_limit = MemoryLimit::bytes(3 * kMiB), .chunk_bytes = 256 * kKiB});
  const auto file = crew.add_file(64 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 64, kMiB)}).ok());
  int blocks = 0;
  ASSERT_TRUE(crew.drain([&](const Block&) {
    ++blocks;
    EXPECT_LE(crew.budget().used(), 3 * kMiB);
  }));
  EXPECT_EQ(blocks, 64);
  EXPECT_LE(crew.budget().peak(), 3 * kMiB);
}

TEST(Scheduler, ReadsOnForAConsumerThatKeepsEverything) {
  Crew crew({.memory_limit = MemoryLimit::bytes(kMiB), .chunk_bytes = 256 * kKiB});
  const auto file = crew.add_file(32 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 32, kMiB)}).ok());
  std::vector<Block> kept;
  ASSERT_TRUE(crew.drain([&](Block block) { kept.push_back(std::move(block)); }));
  ASSERT_EQ(kept.size(), 32u);
  for (const Block& block : kept) EXPECT_TRUE(crew.right(block)) << block.first;
  EXPECT_LE(crew.budget().peak(), kMiB);  // what the consumer holds counts no more
}

TEST(Scheduler, ALimitOfZeroMeansTheLargestBlock) {
  Crew crew({.memory_limit = MemoryLimit::least(), .chunk_bytes = 256 * kKiB});
  const auto file = crew.add_file(16 * kMiB);
  ASSERT_TRUE(crew.submit({{file, {{0, kMiB}, {kMiB, 3 * kMiB}, {4 * kMiB, 2 * kMiB}}}}).ok());
  ASSERT_TRUE(crew.drain());
  EXPECT_EQ(crew.budget().limit(), 3 * kMiB);
  EXPECT_LE(crew.budget().peak(), 3 * kMiB);
}

TEST(Scheduler, RefusesALimitBelowTheLargestBlock) {
  Crew crew({.memory_limit = MemoryLimit::bytes(kMiB - 1)});
  const auto file = crew.add_file(2 * kMiB);
  const Status status = crew.submit({row(file, 2, kMiB)});
  EXPECT_EQ(status.code(), Code::kMemoryLimit);
  EXPECT_NE(status.to_string().find("RUNAI_STREAMER_MEMORY_LIMIT"), std::string::npos);
  EXPECT_NE(status.to_string().find(std::to_string(kMiB)), std::string::npos);
  bool finished = false;
  EXPECT_TRUE(crew.next(&finished).empty());
  EXPECT_TRUE(finished);  // nothing was submitted
}

TEST(Scheduler, TakesALimitOfExactlyTheLargestBlock) {
  for (const bool mapped : {false, true}) {
    Crew crew({.memory_limit = MemoryLimit::bytes(300'001)});
    const auto file = crew.add_file(kMiB, mapped);
    ASSERT_TRUE(crew.submit({row(file, 2, 300'001, 17)}).ok());
    EXPECT_TRUE(crew.drain());
  }
}

TEST(Scheduler, SmallRangesShareBlocksThatFitTheLimit) {
  Crew crew({.memory_limit = MemoryLimit::bytes(100'000)});
  const auto file = crew.add_file(kMiB);
  ASSERT_TRUE(crew.submit({row(file, 15, 60'000)}).ok());
  ASSERT_TRUE(crew.drain([](const Block& block) { EXPECT_LE(block.data_bytes, 100'000u); }));
}

// The memory of a failed block must not be given away while reads into it are in flight.
TEST(Scheduler, DeliversAFailedBlockOnlyWhenItsLastReadEnded) {
  Gate gate;
  std::atomic<int> waiting{0};
  Crew crew({.chunk_bytes = 256 * kKiB, .concurrency = 4, .on_read = [&](const Chunk& chunk) {
               if (chunk.offset == 0) {
                 while (waiting < 2) std::this_thread::yield();
                 return Status::error(Code::kIo, "the first read fails");
               }
               ++waiting;
               gate.pass();
               return Status();
             }});
  const auto file = crew.add_file(8 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 1, 8 * kMiB)}).ok());
  bool finished = false;
  EXPECT_TRUE(crew.next(&finished, milliseconds(200)).empty());
  EXPECT_FALSE(finished);
  gate.open();
  const std::vector<Block> batch = crew.next(&finished);
  ASSERT_EQ(batch.size(), 1u);
  EXPECT_EQ(batch.front().status.code(), Code::kIo);
  EXPECT_TRUE(batch.front().done());
  EXPECT_TRUE(crew.drain());
}

TEST(Scheduler, GoesOnBehindWhatFailedAndKeepsTheOrder) {
  Crew crew({.chunk_bytes = 512 * kKiB, .concurrency = 4, .on_read = [](const Chunk& chunk) {
               return chunk.offset / kMiB % 4 == 1 ? Status::error(Code::kIo, "bad sector")
                                                   : Status();
             }});
  const auto file = crew.add_file(16 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 16, kMiB)}).ok());
  std::vector<std::uint32_t> order;
  std::vector<std::uint32_t> failed;
  ASSERT_TRUE(crew.drain([&](const Block& block) {
    order.push_back(block.first);
    if (!block.status.ok()) failed.push_back(block.first);
  }));
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(failed, (std::vector<std::uint32_t>{1, 5, 9, 13}));
}

TEST(Scheduler, DeliversRangesOfAFileThatDidNotOpenWithItsError) {
  Crew crew({});
  const auto good = crew.add_file(4 * kMiB);
  const auto broken = crew.add_broken_file();
  ASSERT_TRUE(
      crew.submit({row(good, 2, kMiB), row(broken, 2, kMiB), row(good, 2, kMiB, 2 * kMiB)}).ok());
  std::vector<Code> codes;
  ASSERT_TRUE(crew.drain([&](const Block& block) { codes.push_back(block.status.code()); }));
  EXPECT_EQ(codes, (std::vector<Code>{Code::kOk, Code::kOk, Code::kNotFound, Code::kNotFound,
                                      Code::kOk, Code::kOk}));
}

TEST(Scheduler, DeliversRangesWithoutBytes) {
  Crew crew({});
  const auto file = crew.add_file(2 * kMiB);
  const FileRanges wanted{
      file, {{0, 0}, {0, 0}, {0, kMiB}, {kMiB, 0}, {kMiB, 10}, {kMiB + 10, 0}, {2 * kMiB, 0}}};
  ASSERT_TRUE(crew.submit({wanted}).ok());
  std::uint32_t ranges = 0;
  ASSERT_TRUE(crew.drain([&](const Block& block) {
    EXPECT_EQ(block.first, ranges);
    ranges += block.count;
  }));
  EXPECT_EQ(ranges, 7u);
}

TEST(Scheduler, DeliversWhatHasNoBytesAtAll) {
  Crew crew({});
  const auto file = crew.add_file(0);
  ASSERT_TRUE(crew.submit({row(file, 5, 0), {file, {}}, row(file, 1, 0)}).ok());
  std::uint32_t ranges = 0;
  ASSERT_TRUE(crew.drain([&](const Block& block) { ranges += block.count; }));
  EXPECT_EQ(ranges, 6u);
}

TEST(Scheduler, ReadsExactlyAsMuchAtOnceAsTheSettingSays) {
  for (const int concurrency : {1, 3}) {
    std::atomic<int> here{0};
    Crew crew({.chunk_bytes = 64 * kKiB, .concurrency = concurrency, .on_read = [&](const Chunk&) {
                 // Until as many are here as may be, or a while.
                 ++here;
                 for (int i = 0; i < 200 && here % concurrency != 0; ++i) {
                   std::this_thread::sleep_for(milliseconds(1));
                 }
                 return Status();
               }});
    const auto file = crew.add_file(6 * kMiB);
    ASSERT_TRUE(crew.submit({row(file, 1, 6 * kMiB)}).ok());
    ASSERT_TRUE(crew.drain());
    EXPECT_EQ(crew.most_active(), concurrency);
    EXPECT_EQ(crew.scheduler().workers(), concurrency);
  }
}

TEST(Scheduler, StartsNoMoreWorkersThanThereIsWork) {
  Crew crew({.chunk_bytes = kMiB, .concurrency = 64});
  const auto file = crew.add_file(2 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 1, 2 * kMiB)}).ok());
  ASSERT_TRUE(crew.drain());
  EXPECT_LE(crew.scheduler().workers(), 3);
}

TEST(Scheduler, TakesMoreWorkAfterEverythingWasDelivered) {
  Crew crew({});
  const auto file = crew.add_file(4 * kMiB);
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(crew.submit({row(file, 4, kMiB)}).ok());
    int blocks = 0;
    ASSERT_TRUE(crew.drain([&](const Block&) { ++blocks; }));
    EXPECT_EQ(blocks, 4);
  }
}

TEST(Scheduler, TakesMoreWorkWhileItReads) {
  Crew crew({.memory_limit = MemoryLimit::bytes(2 * kMiB)});
  const auto file = crew.add_file(8 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 8, kMiB)}).ok());
  ASSERT_TRUE(crew.submit({row(file, 8, kMiB)}).ok());
  int blocks = 0;
  ASSERT_TRUE(crew.drain([&](const Block&) { ++blocks; }));
  EXPECT_EQ(blocks, 16);
}

TEST(Scheduler, RunsTasksBesideReads) {
  Crew crew({});
  const auto file = crew.add_file(8 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 8, kMiB)}).ok());
  std::atomic<int> done{0};
  for (int i = 0; i < 20; ++i) crew.scheduler().add_task([&] { ++done; }, 4);
  ASSERT_TRUE(crew.drain());
  while (done < 20) std::this_thread::yield();
}

TEST(Scheduler, SaysWhenATimeoutPassed) {
  Gate gate;
  Crew crew({.on_read = [&](const Chunk&) {
    gate.pass();
    return Status();
  }});
  const auto file = crew.add_file(kMiB);
  ASSERT_TRUE(crew.submit({row(file, 1, kMiB)}).ok());
  bool finished = true;
  EXPECT_TRUE(crew.next(&finished, milliseconds(1)).empty());
  EXPECT_FALSE(finished);
  EXPECT_TRUE(crew.last().ok());
  gate.open();
  EXPECT_TRUE(crew.drain());
}

TEST(Scheduler, CancellingWakesWhoeverWaits) {
  Gate gate;
  Crew crew({.on_read = [&](const Chunk&) {
    gate.pass();
    return Status();
  }});
  const auto file = crew.add_file(4 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 4, kMiB)}).ok());
  std::thread canceller([&] {
    std::this_thread::sleep_for(milliseconds(20));
    crew.scheduler().cancel(Status::error(Code::kCancelled, "enough"));
  });
  bool finished = false;
  EXPECT_TRUE(crew.next(&finished).empty());
  EXPECT_EQ(crew.last().code(), Code::kCancelled);
  canceller.join();
  gate.open();
  EXPECT_TRUE(crew.next(&finished).empty());  // and later calls, too
  EXPECT_EQ(crew.last().code(), Code::kCancelled);
}

TEST(Scheduler, SaysThatTheSystemGivesNoThread) {
  Crew crew({.threads_to_be_had = 0});
  const auto file = crew.add_file(kMiB);
  ASSERT_TRUE(crew.submit({row(file, 1, kMiB)}).ok());
  bool finished = false;
  EXPECT_TRUE(crew.next(&finished).empty());
  EXPECT_EQ(crew.last().code(), Code::kOutOfMemory);
  EXPECT_NE(crew.last().to_string().find("ulimit -u"), std::string::npos);
}

TEST(Scheduler, MakesDoWithTheThreadsThatItGets) {
  Crew crew({.chunk_bytes = 64 * kKiB, .concurrency = 8, .threads_to_be_had = 2});
  const auto file = crew.add_file(8 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 8, kMiB)}).ok());
  EXPECT_TRUE(crew.drain());
  EXPECT_EQ(crew.scheduler().workers(), 2);
}

TEST(Scheduler, HandsOutViewsWithoutTakingMemory) {
  Crew crew({.memory_limit = MemoryLimit::bytes(4 * kMiB)});
  const auto file = crew.add_file(16 * kMiB, /*mapped=*/true);
  ASSERT_TRUE(crew.submit({row(file, 16, kMiB)}).ok());
  ASSERT_TRUE(crew.drain([](const Block& block) {
    EXPECT_EQ(block.memory, BlockMemory::kView);
    EXPECT_EQ(block.buffer, nullptr);
  }));
  EXPECT_EQ(crew.budget().peak(), 0u);
}

TEST(Scheduler, NeverViewsTheSameBytesTwice) {
  Crew crew({});
  const auto file = crew.add_file(4 * kMiB, /*mapped=*/true);
  ASSERT_TRUE(crew.submit({row(file, 2, kMiB), row(file, 2, kMiB)}).ok());
  std::vector<std::byte*> places;
  std::vector<Block> kept;
  ASSERT_TRUE(crew.drain([&](Block block) {
    places.push_back(block.data + block.offsets[0]);
    kept.push_back(std::move(block));
  }));
  ASSERT_EQ(places.size(), 4u);
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i) EXPECT_GE(places[i] - places[i - 1], 1 << 20);
}

TEST(Scheduler, ReadsIntoDestinationsOfTheCaller) {
  Crew crew({.chunk_bytes = 100'000});
  const auto file = crew.add_file(kMiB);
  std::vector<std::byte> memory(kMiB);
  FileRanges wanted = row(file, 16, 64 * kKiB);
  for (Range& range : wanted.ranges) range.destination = memory.data() + range.offset;
  ASSERT_TRUE(crew.submit({wanted}).ok());
  ASSERT_TRUE(crew.drain());
  EXPECT_TRUE(testing::matches(memory.data(), file, 0, kMiB));
  EXPECT_EQ(crew.budget().peak(), 0u);
}

// Whoever drops memory runs into the scheduler's lock; the scheduler must not do it under the lock.
TEST(Scheduler, MemoryMayBeDroppedByOtherThreadsAtAnyMoment) {
  Crew crew({.memory_limit = MemoryLimit::bytes(512 * kKiB),
             .chunk_bytes = 256 * kKiB,
             .concurrency = 2});
  constexpr int kBlocks = 1500;
  const auto file = crew.add_file(256 * kKiB);
  FileRanges wanted;
  wanted.file = file;
  for (int i = 0; i < kBlocks; ++i) wanted.ranges.push_back({0, 256 * kKiB});
  ASSERT_TRUE(crew.submit({wanted}).ok());
  std::mutex mutex;
  std::deque<std::shared_ptr<MemoryPool::Buffer>> held;
  std::atomic<bool> over{false};
  std::thread dropper([&] {
    while (!over) {
      std::shared_ptr<MemoryPool::Buffer> memory;
      const std::lock_guard lock(mutex);
      if (!held.empty()) {
        memory = std::move(held.front());
        held.pop_front();
      }
    }
  });
  int blocks = 0;
  const bool complete = crew.drain([&](Block block) {
    ++blocks;
    const std::lock_guard lock(mutex);
    held.push_back(std::move(block.buffer));
  });
  over = true;
  dropper.join();
  EXPECT_TRUE(complete);
  EXPECT_EQ(blocks, kBlocks);
}

// Two connections stall: each is told to end, and another brings the rest.
TEST(Scheduler, StragglersAreAbortedAndOtherWorkersGoOn) {
  std::atomic<int> reads{0};
  Crew crew({.memory_limit = MemoryLimit::bytes(8 * kMiB),
             .chunk_bytes = 512 * kKiB,
             .concurrency = 4,
             .stragglers = true,
             .on_abort = [&](const Chunk& chunk) -> std::uint64_t {
               const int read = ++reads;
               if (read != 12 && read != 13) return 0;
               chunk.progress->received = 1000;
               while (!chunk.progress->aborted) std::this_thread::sleep_for(milliseconds(1));
               return chunk.size - 1000;
             }});
  const auto file = crew.add_file(32 * kMiB);
  ASSERT_TRUE(crew.submit({row(file, 32, kMiB)}).ok());
  ASSERT_TRUE(crew.drain());
  EXPECT_GE(crew.scheduler().times().stragglers, 2u);
  const auto sizes = crew.chunk_sizes();
  EXPECT_GE(std::count(sizes.begin(), sizes.end(), 512 * kKiB - 1000), 1);
}

}  // namespace
}  // namespace streamer
