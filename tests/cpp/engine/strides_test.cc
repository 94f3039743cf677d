#include "engine/strides.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "base/segments.h"
#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::Crew;

Range strided(std::uint64_t offset, Strides strides) {
  std::uint64_t size = strides.run;
  for (const Strides::Level& level : strides.levels) size *= level.count;
  return {offset, size, nullptr, 1, std::make_shared<const Strides>(std::move(strides))};
}

// Strides of up to three levels, the outermost first.
Strides random_strides(std::mt19937_64* random) {
  const auto number = [random](std::uint64_t least, std::uint64_t most) {
    return std::uniform_int_distribution<std::uint64_t>(least, most)(*random);
  };
  Strides made;
  made.run = number(1, number(1, 3) == 1 ? 5000 : 40);
  std::uint64_t reach = made.run;
  for (std::uint64_t levels = number(1, 3); levels > 0; --levels) {
    const std::uint64_t stride = reach + number(0, number(1, 4) == 1 ? 20000 : 60);
    const std::uint64_t count = number(1, 12);
    made.levels.insert(made.levels.begin(), {count, stride});
    reach += (count - 1) * stride;
  }
  return made;
}

TEST(Strides, HaveAnExtentAndPlaces) {
  const Range range = strided(100, {.run = 4, .levels = {{2, 50}, {3, 10}}});
  EXPECT_EQ(extent(range), 50u + 20 + 4);
  std::vector<std::uint64_t> places;
  for (std::uint64_t at = 0; at < range.size; at += 4) places.push_back(place_of(range, at));
  EXPECT_EQ(places, (std::vector<std::uint64_t>{100, 110, 120, 150, 160, 170}));
  EXPECT_EQ(place_of(range, 9), 121u);
  EXPECT_EQ(run_left(range, 9), 3u);
}

TEST(Strides, ThatDoNotMakeUpTheirRangeAreAnError) {
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  for (const Strides& wrong : std::vector<Strides>{
           {.run = 0, .levels = {{2, 10}}},
           {.run = 5, .levels = {{2, 4}}},            // overlap
           {.run = 5, .levels = {{2, 10}, {3, 10}}},  // the inner level reaches into the next
           {.run = 5, .levels = {{0, 10}}},
           {.run = 5, .levels = {{kMost, 10}}},
           {.run = 5, .levels = {{3, kMost / 2 + 9}}},
           {.run = 5, .levels = {{2, 990}}},  // behind the end of the object
       }) {
    Crew crew({});
    const std::uint32_t file = crew.add_file(990);
    const Status status = crew.submit({{file, {strided(0, wrong)}}});
    EXPECT_FALSE(status.ok());
  }
  Crew crew({});
  Range range = strided(0, {.run = 5, .levels = {{2, 10}}});
  ++range.size;
  EXPECT_EQ(crew.submit({{crew.add_file(1000), {range}}}).code(), Code::kInvalid);
}

// Whatever is cut, and wherever a read is aborted.
TEST(Strides, BringExactlyTheirBytes) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    std::mutex mutex;  // of `random`, when workers use it
    Crew::Setup setup;
    setup.chunk_bytes = 1 + random() % 30000;
    setup.concurrency = 1 + static_cast<int>(random() % 4);
    setup.skips_gaps = seed % 2 == 0;
    setup.on_abort = [&](const Chunk& chunk) -> std::uint64_t {
      const std::lock_guard lock(mutex);
      EXPECT_FALSE(is_gap(chunk.segments.front()));
      EXPECT_FALSE(is_gap(chunk.segments.back()));
      EXPECT_EQ(total_bytes(chunk.segments), chunk.size);
      return chunk.aborts < 3 && random() % 3 == 0 ? random() % (chunk.size + 1) : 0;
    };
    Crew crew(setup);
    std::vector<FileRanges> wanted(2);
    std::vector<std::vector<std::byte>> memory;
    std::uint64_t total = 0;
    for (FileRanges& entry : wanted) {
      entry.file = crew.add_file(4 << 20);
      std::uint64_t offset = 0;
      for (int i = 0; i < 6; ++i) {
        Range range = strided(offset, random_strides(&random));
        if (random() % 4 == 0) range = {offset, random() % 3000, nullptr, 1, {}};
        if (offset + *extent(range) > (4 << 20)) break;
        offset += *extent(range) + random() % 100;
        if (random() % 3 == 0) range.destination = memory.emplace_back(range.size).data();
        total += range.size;
        entry.ranges.push_back(range);
      }
    }
    ASSERT_TRUE(crew.submit(wanted).ok());
    std::uint64_t found = 0;
    EXPECT_TRUE(crew.drain([&](const Block& block) { found += block.bytes; })) << seed;
    EXPECT_EQ(found, total) << seed;
    crew.stop();
  }
}

}  // namespace
}  // namespace streamer
