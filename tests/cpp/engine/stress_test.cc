// Random plans, budgets and consumers against storage in memory: every byte is compared, and the
// budget is never exceeded.
#include <gtest/gtest.h>

#include <random>

#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::Crew;
using testing::kKiB;

// The process's own address space, each call of which takes a while: what others do meanwhile
// meets memory that is about to be mapped or released.
class SlowAddressSpace final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages pages, Place place) override {
    pause();
    return system().map(bytes, pages, place);
  }
  void release(std::byte* data, std::uint64_t bytes) override {
    pause();
    system().release(data, bytes);
  }
  void unmap(std::byte* data, std::uint64_t bytes) override {
    pause();
    system().unmap(data, bytes);
  }
  void discard(std::byte* data, std::uint64_t bytes) override {
    pause();
    system().discard(data, bytes);
  }
  bool move(std::byte* data, std::uint64_t bytes, std::byte* target) override {
    pause();
    return system().move(data, bytes, target);
  }

 private:
  void pause() {
    if (calls_++ % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  std::atomic<int> calls_{0};
};

class Stress : public ::testing::TestWithParam<int> {};

TEST_P(Stress, EveryByteArrivesInOrderWithinTheBudget) {
  SlowAddressSpace slow;  // outlives the blocks
  std::mt19937_64 random(static_cast<std::uint64_t>(GetParam()));
  const auto pick = [&random](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  const std::uint64_t largest = pick(1, 3000) * kKiB;
  const MemoryLimit limits[] = {MemoryLimit::unlimited(), MemoryLimit::least(),
                                MemoryLimit::bytes(largest + pick(0, 4000) * kKiB)};
  const MemoryLimit limit = limits[pick(0, 2)];
  const std::uint64_t fault_every = pick(0, 1) == 0 ? 0 : pick(3, 40);
  std::atomic<std::uint64_t> reads{0};
  Crew crew({.memory_limit = limit,
             .chunk_bytes = pick(4, 2048) * kKiB,
             .concurrency = static_cast<int>(pick(1, 8)),
             .on_read =
                 [&reads, fault_every](const Chunk&) {
                   const std::uint64_t number = reads++;
                   if (number % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
                   if (fault_every > 0 && number % fault_every == fault_every - 1) {
                     return Status::error(Code::kIo, "fault");
                   }
                   return Status();
                 },
             .space = GetParam() % 2 == 0 ? AddressSpace::system() : slow});

  std::vector<FileRanges> entries;
  std::vector<std::vector<std::byte>> destinations;
  std::uint64_t ranges = 0;
  const auto files = pick(1, 4);
  for (std::uint64_t f = 0; f < files; ++f) {
    FileRanges wanted;
    std::uint64_t end = pick(0, 100);
    const auto count = pick(0, 60);
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint64_t size = 0;
      switch (pick(0, 4)) {
        case 0: break;
        case 1: size = pick(1, 300); break;
        case 2: size = pick(1, 64 * kKiB); break;
        case 3: size = pick(1, 300 * kKiB); break;
        default: size = pick(1, largest);
      }
      size = std::min(size, largest);
      if (pick(0, 5) == 0) end += pick(1, 9000);  // a gap
      Range range{end, size, nullptr, std::uint32_t{1} << pick(0, 6)};
      if (size > 0 && pick(0, 9) == 0) {
        destinations.emplace_back(size);
        range.destination = destinations.back().data();
      }
      wanted.ranges.push_back(range);
      end += size;
    }
    wanted.file = crew.add_file(end + pick(0, 10), pick(0, 2) == 0);
    ranges += count;
    entries.push_back(std::move(wanted));
  }
  const Status submitted = crew.submit(entries);
  ASSERT_TRUE(submitted.ok()) << submitted.to_string();

  const auto keep = pick(0, 2);  // nothing, everything, some
  std::vector<Block> kept;
  std::uint64_t seen = 0;
  std::pair<std::uint32_t, std::uint32_t> last{0, 0};
  ASSERT_TRUE(crew.drain([&](Block block) {
    const std::pair<std::uint32_t, std::uint32_t> place{block.entry, block.first};
    EXPECT_LE(last, place);
    last = place;
    seen += block.count;
    if (pick(0, 15) == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
    if (block.status.ok() && (keep == 1 || (keep == 2 && pick(0, 3) == 0))) {
      kept.push_back(std::move(block));
    }
  })) << crew.last().to_string();
  EXPECT_EQ(seen, ranges);
  EXPECT_LE(crew.budget().peak(), crew.budget().limit());
  crew.stop();
  for (const Block& block : kept) EXPECT_TRUE(crew.right(block));
  kept.clear();
  crew.pool().close();
  EXPECT_EQ(crew.budget().used(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Stress, ::testing::Range(0, 60));

}  // namespace
}  // namespace streamer
