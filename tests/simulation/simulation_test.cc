// Loads that seeds make up: each ends with all bytes once and in order, or with the one right
// error; within the budget, within a bound of virtual time, and nobody waits for ever.
//
// SIMULATION_SEEDS: how many; SIMULATION_FIRST: the first one. To replay a failure:
//   SIMULATION_FIRST=SEED SIMULATION_SEEDS=1 simulation_tests
#include "simulation.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace streamer::simulation {
namespace {

constexpr int kShards = 4;  // which ctest may run at the same time

std::uint64_t number(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class Loads : public ::testing::TestWithParam<int> {};

TEST_P(Loads, EndWithEveryByteOrTheRightError) {
  const std::uint64_t first = number("SIMULATION_FIRST", 0);
  const std::uint64_t count = number("SIMULATION_SEEDS", SIMULATION_SEEDS);
  for (std::uint64_t seed = first + static_cast<std::uint64_t>(GetParam()); seed < first + count;
       seed += kShards) {
    const LoadModel load = random_load(seed);
    const Outcome outcome = simulate(load, seed);
    ASSERT_EQ(outcome.fault, "") << "seed " << seed << " after " << outcome.seconds
                                 << " s of virtual time\n  " << describe(load);
  }
}

INSTANTIATE_TEST_SUITE_P(Shards, Loads, ::testing::Range(0, kShards));

TEST(Simulation, TheSameSeedGivesTheSameOutcome) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Outcome one = simulate(random_load(seed), seed);
    const Outcome other = simulate(random_load(seed), seed);
    EXPECT_EQ(one.seconds, other.seconds);
    EXPECT_EQ(one.attempts, other.attempts);
    EXPECT_EQ(one.bytes, other.bytes);
    EXPECT_EQ(one.peak_memory, other.peak_memory);
  }
}

// The faults that the checks above look for do occur.
TEST(Simulation, SeedsReachTheUncommon) {
  std::uint64_t failed = 0;
  std::uint64_t aborted = 0;
  std::uint64_t retried = 0;
  std::uint64_t abandoned = 0;
  std::uint64_t waited = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const LoadModel load = random_load(seed);
    const Outcome outcome = simulate(load, seed);
    failed += outcome.failed_blocks > 0 ? 1 : 0;
    aborted += outcome.times.stragglers > 0 ? 1 : 0;
    retried += outcome.attempts > outcome.reads ? 1 : 0;
    waited += outcome.times.wait_memory > 0 ? 1 : 0;
    const double left = load.consumer.abandon_after;
    abandoned += left > 0 && outcome.seconds <= left + 1 ? 1 : 0;
  }
  EXPECT_GT(failed, 5u);
  EXPECT_GT(aborted, 5u);
  EXPECT_GT(retried, 50u);
  EXPECT_GT(abandoned, 10u);
  EXPECT_GT(waited, 50u);
}

}  // namespace
}  // namespace streamer::simulation
