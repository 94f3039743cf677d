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

class FlowControlOfObjects : public ::testing::Test {
 protected:
  // As many reads as are given, of 8 MiB at first.
  FlowControl flow(std::uint64_t limit, int reads) const {
    SourceTraits traits;
    traits.remote = true;
    traits.initial_concurrency = traits.max_concurrency = reads;
    FlowControl made(std::make_shared<MemoryBudget>(limit), MemoryLimit::bytes(limit));
    made.add_source(SourceKind::kS3, {.chunk_bytes = 8 * kMiB,
                                      .controller = ConcurrencyController(0, traits, 2),
                                      .reader_bytes = kMiB,
                                      .most_chunk = 32 * kMiB,
                                      .refusals = refusals_});
    return made;
  }
  void refuse(FlowControl* flow) {
    ++*refusals_;
    flow->heed_refusals();
  }

  const std::shared_ptr<std::atomic<std::uint64_t>> refusals_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
};

TEST_F(FlowControlOfObjects, RefusedRequestsMakeFewerAndLargerReads) {
  FlowControl slow = flow(4096 * kMiB, 100);
  EXPECT_EQ(slow.chunk_bytes(SourceKind::kS3), 8 * kMiB);
  refuse(&slow);
  EXPECT_EQ(slow.reads(SourceKind::kS3), 70U);
  EXPECT_EQ(slow.chunk_bytes(SourceKind::kS3), 16 * kMiB);
  slow.heed_refusals();  // no new one
  EXPECT_EQ(slow.reads(SourceKind::kS3), 70U);
}

// The bytes in flight, and a quarter that waits for earlier ones.
TEST_F(FlowControlOfObjects, ReadsGrowAsFarAsMemoryIsEnoughForAllOfThem) {
  constexpr int kReads = 100;
  const std::uint64_t enough = kReads * 7 / 10 * (16 + 4 + 1) * kMiB;
  FlowControl just = flow(enough, kReads);
  refuse(&just);
  EXPECT_EQ(just.chunk_bytes(SourceKind::kS3), 16 * kMiB);
  FlowControl short_of = flow(enough - kMiB, kReads);
  refuse(&short_of);
  EXPECT_EQ(short_of.chunk_bytes(SourceKind::kS3), 8 * kMiB);
}

}  // namespace
}  // namespace streamer
