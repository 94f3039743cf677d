#include "engine/plan.h"

#include <gtest/gtest.h>

#include <array>
#include <map>

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
    files_.push_back(
        std::make_shared<FileState>(FileState{object->path(), SourceKind::kFile, object, {}, 0}));
  }
  Status plan(std::vector<FileRanges> entries, Device device = {},
              std::uint64_t group = MemoryBudget::kUnlimited) {
    auto submission = std::make_shared<Submission>();
    submission->device = device;
    submission->entries = std::move(entries);
    blocks_.clear();
    if (Status status = find_files(files_, submission.get()); !status.ok()) return status;
    auto plan = Plan::make(submission, group);
    if (!plan.ok()) return plan.status();
    while (!plan->at_end()) blocks_.push_back(plan->next());
    bytes_ = plan->bytes();
    return {};
  }
  std::vector<std::uint32_t> counts() const {
    std::vector<std::uint32_t> counts;
    for (const Block& block : blocks_) counts.push_back(block.count);
    return counts;
  }

  FileTable files_;
  std::vector<Block> blocks_;
  std::uint64_t bytes_ = 0;
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
  EXPECT_EQ(blocks_[1].memory, BlockMemory::kCaller);
}

TEST_F(PlanBlocks, AlignsRangesInItsMemory) {
  add_file(kMiB);
  ASSERT_TRUE(plan({{0, {{1, 3, nullptr, 1}, {4, 8, nullptr, 8}, {12, 5, nullptr, 64}}}}).ok());
  ASSERT_EQ(blocks_.size(), 1u);
  EXPECT_EQ(blocks_[0].offsets, (std::vector<std::uint64_t>{0, 8, 64}));
  EXPECT_EQ(blocks_[0].data_bytes, 69u);
  EXPECT_EQ(blocks_[0].bytes, 16u);
  EXPECT_EQ(bytes_, 16u);
}

TEST_F(PlanBlocks, ViewsWhatIsAlignedInItsFile) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{8, 8, nullptr, 8}, {16, 4, nullptr, 4}}}}).ok());
  ASSERT_EQ(blocks_.size(), 1u);
  EXPECT_TRUE(blocks_[0].viewable);
}

// The thread that plans would wait for the page faults of the workers.
TEST_F(PlanBlocks, MapsNoFile) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{8, 8, nullptr, 8}}}}).ok());
  EXPECT_TRUE(blocks_[0].viewable);
  EXPECT_FALSE(static_cast<const FakeObject&>(*files_[0]->object).view_asked());
}

TEST_F(PlanBlocks, CopiesWhatIsMisalignedInItsFile) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{9, 8, nullptr, 8}}}}).ok());
  EXPECT_FALSE(blocks_[0].viewable);
  EXPECT_EQ(blocks_[0].offsets[0] % 8, 0u);
}

TEST_F(PlanBlocks, CopiesAGroupWithAGap) {
  add_file(kMiB, /*mapped=*/true);
  ASSERT_TRUE(plan({{0, {{0, 8}, {100, 8}}}}).ok());
  EXPECT_FALSE(blocks_[0].viewable);
}

TEST_F(PlanBlocks, ViewsNoByteTwiceWhenPlansWait) {
  add_file(kMiB, /*mapped=*/true);
  std::vector<Plan> plans;
  for (int i = 0; i < 2; ++i) {
    auto submission = std::make_shared<Submission>();
    submission->entries = {row(0, 1, 1000), row(0, 1, 1000, 2000)};
    ASSERT_TRUE(find_files(files_, submission.get()).ok());
    auto plan = Plan::make(submission, MemoryBudget::kUnlimited);
    ASSERT_TRUE(plan.ok());
    plans.push_back(std::move(*plan));
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(plans[1].next().viewable);
    EXPECT_TRUE(plans[0].next().viewable);
  }
}

TEST_F(PlanBlocks, ARefusedPlanViewsNothing) {
  add_file(kMiB, /*mapped=*/true);
  EXPECT_EQ(plan({row(0, 1, 1000), {0, {{kMiB, 1}}}}).code(), Code::kShortRead);
  ASSERT_TRUE(plan({row(0, 1, 1000)}).ok());
  EXPECT_TRUE(blocks_[0].viewable);
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
  EXPECT_TRUE(blocks_[0].has_memory());
}

TEST_F(PlanBlocks, RefusesRangesBehindTheEnd) {
  add_file(100);
  for (const Range& range : {Range{0, 101}, Range{100, 1}, Range{101, 0}, Range{~0ull, 1},
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
  for (const Block& block : blocks_) EXPECT_EQ(block.memory, BlockMemory::kDevice);
}

TEST_F(PlanBlocks, BlocksOfAFileThatDidNotOpenHaveItsError) {
  files_.push_back(std::make_shared<FileState>(
      FileState{"gone", SourceKind::kFile, nullptr, Status::error(Code::kNotFound, "no"), 0}));
  ASSERT_TRUE(plan({row(0, 2, kMiB)}).ok());
  for (const Block& block : blocks_) {
    EXPECT_EQ(block.status.code(), Code::kNotFound);
    EXPECT_TRUE(block.done());
  }
}

TEST(Chunk, GoesOnWhereItWasSplit) {
  Block one;
  Block other;
  std::array<std::byte, 300> memory{};
  std::byte* const at = memory.data();
  for (const std::uint64_t bytes : {0, 50, 100, 150, 300}) {
    Chunk chunk;
    chunk.offset = 1000;
    chunk.size = 300;
    chunk.segments = {{at, 100}, {at + 100, 120}, {at + 220, 80}};
    chunk.shares = {{&one, 100}, {&other, 200}};
    const Chunk rest = split_off(&chunk, bytes);
    EXPECT_EQ(chunk.size, bytes);
    EXPECT_EQ(rest.size, 300 - bytes);
    EXPECT_EQ(rest.offset, 1000 + bytes);
    EXPECT_EQ(rest.aborts, 1);
    std::vector<std::byte*> places;
    std::map<Block*, std::uint64_t> shares;
    for (const Chunk* part : {static_cast<const Chunk*>(&chunk), &rest}) {
      for (const iovec& segment : part->segments) {
        EXPECT_GT(segment.iov_len, 0u);
        for (std::size_t i = 0; i < segment.iov_len; ++i) {
          places.push_back(static_cast<std::byte*>(segment.iov_base) + i);
        }
      }
      EXPECT_EQ(places.size(), part == &chunk ? bytes : 300);
      for (const Chunk::Share& share : part->shares) shares[share.block] += share.bytes;
    }
    ASSERT_EQ(places.size(), 300u);
    for (std::size_t i = 0; i < 300; ++i) EXPECT_EQ(places[i], at + i);
    EXPECT_EQ(shares[&one], 100u);
    EXPECT_EQ(shares[&other], 200u);
  }
}

}  // namespace
}  // namespace streamer
