#include "engine/block.h"

#include <gtest/gtest.h>

#include "engine/fake_storage.h"

namespace streamer {
namespace {

using testing::FakeObject;
using testing::kKiB;
using testing::kMiB;
using testing::row;

class PlanBlocks : public ::testing::Test {
 protected:
  void add_file(std::uint64_t size, bool mapped = false) {
    auto object = std::make_shared<FakeObject>(files_.size(), size, mapped);
    files_.push_back({object->path(), SourceKind::kFile, object, {}, 0});
  }
  Status plan(std::vector<FileRanges> entries, Device device = {},
              std::uint64_t group = MemoryBudget::kUnlimited) {
    auto submission = std::make_shared<Submission>();
    submission->device = device;
    submission->entries = std::move(entries);
    blocks_.clear();
    return plan_blocks(submission, group, &files_, &blocks_);
  }
  std::vector<std::uint32_t> counts() const {
    std::vector<std::uint32_t> counts;
    for (const Block& block : blocks_) counts.push_back(block.count);
    return counts;
  }

  std::vector<FileState> files_;
  std::vector<Block> blocks_;
};

using Counts = std::vector<std::uint32_t>;

TEST_F(PlanBlocks, GivesEachLargeRangeABlock) {
  add_file(10 * kMiB);
  ASSERT_TRUE(plan({row(0, 4, kSmallRange)}).ok());
  EXPECT_EQ(counts(), (Counts{1, 1, 1, 1}));
}

TEST_F(PlanBlocks, GroupsSmallRangesUpToTheGroupSize) {
  add_file(10 * kMiB);
  ASSERT_TRUE(plan({row(0, 20, 128 * kKiB)}).ok());
  EXPECT_EQ(counts(), (Counts{8, 8, 4}));
  for (const Block& block : blocks_) EXPECT_LE(block.data_bytes, kGroupBytes);
}

TEST_F(PlanBlocks, GroupsNoMoreThanTheLimit) {
  add_file(10 * kMiB);
  ASSERT_TRUE(plan({row(0, 6, 10'000)}, {}, 25'000).ok());
  EXPECT_EQ(counts(), (Counts{2, 2, 2}));
}

TEST_F(PlanBlocks, SmallAndLargeRangesDoNotShareABlock) {
  add_file(10 * kMiB);
  ASSERT_TRUE(plan({{0, {{0, 10}, {10, 10}, {20, kMiB}, {20 + kMiB, 10}}}}).ok());
  EXPECT_EQ(counts(), (Counts{2, 1, 1}));
}

TEST_F(PlanBlocks, EntriesDoNotShareBlocks) {
  add_file(kMiB);
  ASSERT_TRUE(plan({row(0, 2, 10), row(0, 3, 10, 20)}).ok());
  EXPECT_EQ(counts(), (Counts{2, 3}));
  EXPECT_EQ(blocks_[1].entry, 1u);
}

TEST_F(PlanBlocks, RangesOfTheCallerAndOfTheEngineDoNotShareBlocks) {
  add_file(kMiB);
  std::byte memory[10];
  ASSERT_TRUE(plan({{0, {{0, 10}, {10, 10, memory}, {20, 10}}}}).ok());
  EXPECT_EQ(counts(), (Counts{1, 1, 1}));
  EXPECT_EQ(blocks_[1].placement, Placement::kCaller);
}

TEST_F(PlanBlocks, AlignsRangesInItsMemory) {
  add_file(kMiB);
  ASSERT_TRUE(plan({{0, {{1, 3, nullptr, 1}, {4, 8, nullptr, 8}, {12, 5, nullptr, 64}}}}).ok());
  ASSERT_EQ(blocks_.size(), 1u);
  EXPECT_EQ(blocks_[0].positions, (std::vector<std::uint64_t>{0, 8, 64}));
  EXPECT_EQ(blocks_[0].data_bytes, 69u);
  EXPECT_EQ(blocks_[0].bytes, 16u);
}

TEST_F(PlanBlocks, ViewsWhatIsAlignedInItsFile) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{8, 8, nullptr, 8}, {16, 4, nullptr, 4}}}}).ok());
  ASSERT_EQ(blocks_.size(), 1u);
  EXPECT_TRUE(blocks_[0].viewable);
}

TEST_F(PlanBlocks, CopiesWhatIsMisalignedInItsFile) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{9, 8, nullptr, 8}}}}).ok());
  EXPECT_FALSE(blocks_[0].viewable);
  EXPECT_EQ(blocks_[0].positions[0] % 8, 0u);
}

TEST_F(PlanBlocks, CopiesAGroupWithAGap) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{0, 8}, {100, 8}}}}).ok());
  EXPECT_FALSE(blocks_[0].viewable);
}

TEST_F(PlanBlocks, ViewsNoByteTwice) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({row(0, 1, 1000)}).ok());
  EXPECT_TRUE(blocks_[0].viewable);
  ASSERT_TRUE(plan({row(0, 1, 1000)}).ok());
  EXPECT_FALSE(blocks_[0].viewable);
  ASSERT_TRUE(plan({row(0, 1, 1000, 1000)}).ok());
  EXPECT_TRUE(blocks_[0].viewable);
}

TEST_F(PlanBlocks, RangesWithoutBytesJoinTheirNeighbours) {
  add_file(kMiB);
  ASSERT_TRUE(plan({{0, {{0, 0}, {0, 10}, {10, 0}}}}).ok());
  EXPECT_EQ(counts(), (Counts{3}));
  EXPECT_EQ(blocks_[0].bytes, 10u);
}

TEST_F(PlanBlocks, ABlockWithoutBytesIsDoneAtOnce) {
  add_file(0);
  ASSERT_TRUE(plan({{0, {{0, 0}}}}).ok());
  EXPECT_TRUE(blocks_[0].done());
  EXPECT_TRUE(blocks_[0].placed());
}

TEST_F(PlanBlocks, RefusesRangesBehindTheEnd) {
  add_file(100);
  for (const Range range : {Range{0, 101}, Range{100, 1}, Range{101, 0}, Range{~0ull, 1},
                            Range{1, ~0ull}, Range{~0ull, ~0ull}}) {
    const Status status = plan({{0, {range}}});
    EXPECT_EQ(status.code(), Code::kShortRead) << range.offset << " " << range.size;
    EXPECT_EQ(status.detail().path, "fake-0");
  }
  EXPECT_TRUE(plan({{0, {{100, 0}, {0, 100}}}}).ok());
}

TEST_F(PlanBlocks, RefusesBadAlignments) {
  add_file(1000);
  for (const std::uint32_t alignment : {0u, 3u, 65u, 128u}) {
    EXPECT_EQ(plan({{0, {{0, 8, nullptr, alignment}}}}).code(), Code::kInvalid) << alignment;
  }
}

TEST_F(PlanBlocks, RefusesFilesThatWereNotOpened) {
  EXPECT_EQ(plan({{0, {{0, 1}}}}).code(), Code::kInvalid);
}

TEST_F(PlanBlocks, ADeviceNeedsDestinations) {
  add_file(1000);
  const Device device{DeviceType::kCuda, 0};
  EXPECT_EQ(plan({{0, {{0, 8}}}}, device).code(), Code::kInvalid);
  std::byte memory[8];
  ASSERT_TRUE(plan({{0, {{0, 8, memory}, {8, 0}}}}, device).ok());
  for (const Block& block : blocks_) EXPECT_EQ(block.placement, Placement::kDevice);
}

TEST_F(PlanBlocks, BlocksOfAFileThatDidNotOpenHaveItsError) {
  files_.push_back({"gone", SourceKind::kFile, nullptr, Status::error(Code::kNotFound, "no"), 0});
  ASSERT_TRUE(plan({row(0, 2, kMiB)}).ok());
  for (const Block& block : blocks_) {
    EXPECT_EQ(block.status.code(), Code::kNotFound);
    EXPECT_TRUE(block.done());
  }
}

}  // namespace
}  // namespace streamer
