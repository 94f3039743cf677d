#include "engine/flow_control.h"

#include <gtest/gtest.h>

#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::kMiB;

// A source that says how many reads it wants, whatever the controller's limit is.
TEST(FlowControl, TheWindowFollowsTheReadsThatTheSourceWants) {
  constexpr std::uint64_t kFirst = 8 * kMiB;
  auto budget = std::make_shared<MemoryBudget>(kFirst);
  FlowControl flow(budget, MemoryLimit());
  SourceTraits traits;
  traits.initial_concurrency = traits.max_concurrency = 16;
  const auto reads = std::make_shared<WantedReads>();
  flow.add_source(SourceKind::kFile, {.chunk_bytes = 2 * kMiB,
                                      .view_chunk_bytes = 2 * kMiB,
                                      .controller = ConcurrencyController(0, traits, 2),
                                      .most_window = 4096 * kMiB,
                                      .reads = reads});
  const std::uint64_t few = flow.window(SourceKind::kFile);
  reads->number = 128;
  EXPECT_EQ(flow.window(SourceKind::kFile), 128 * few);
  EXPECT_TRUE(flow.widen(SourceKind::kFile, 1024 * kMiB));
  EXPECT_GT(budget->limit(), 128 * 2 * kMiB);
  EXPECT_EQ(flow.chunk_bytes(SourceKind::kFile), 2 * kMiB);
  reads->most_bytes = kMiB;
  EXPECT_EQ(flow.chunk_bytes(SourceKind::kFile), kMiB);
}

}  // namespace
}  // namespace streamer
