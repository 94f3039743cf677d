#include "engine/straggler_detector.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kBytes = 8 << 20;

class StragglerDetectorTest : public testing::Test {
 protected:
  std::shared_ptr<ReadProgress> begin(int aborts = 0) {
    auto progress = std::make_shared<ReadProgress>();
    detector_.began(progress, kBytes, aborts, now_);
    return progress;
  }
  void end(const std::shared_ptr<ReadProgress>& progress) {
    progress->received = kBytes;
    detector_.ended(progress.get(), now_);
  }
  // Reads that take 60 ms each.
  void usual(int reads) {
    for (int i = 0; i < reads; ++i) {
      auto read = begin();
      now_ += 60ms;
      end(read);
    }
  }
  // `time` passes; each 20 ms `progress` gets `bytes` more.
  void pass(std::chrono::milliseconds time, ReadProgress* progress, std::uint64_t bytes) {
    for (auto end = now_ + time; now_ < end;) {
      now_ += 20ms;
      progress->received += bytes;
      detector_.check(now_);
    }
  }

  StragglerDetector detector_;
  StragglerDetector::TimePoint now_{1h};
};

TEST_F(StragglerDetectorTest, CutsAReadThatStalls) {
  usual(8);
  const auto read = begin();
  pass(200ms, read.get(), 0);
  EXPECT_FALSE(read->cut);
  pass(100ms, read.get(), 0);
  EXPECT_TRUE(read->cut);
  EXPECT_EQ(detector_.aborts(), 1u);
}

TEST_F(StragglerDetectorTest, CutsAReadThatCrawls) {
  usual(8);
  const auto read = begin();
  pass(400ms, read.get(), kBytes / 200);
  EXPECT_TRUE(read->cut);
}

TEST_F(StragglerDetectorTest, LeavesAReadThatIsNearlyDone) {
  usual(8);
  const auto read = begin();
  read->received = kBytes * 3 / 4;
  pass(240ms, read.get(), kBytes / 60);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, LeavesAReadThatHasCaughtUp) {
  usual(8);
  const auto read = begin();
  pass(160ms, read.get(), kBytes / 1000);
  pass(80ms, read.get(), kBytes / 5);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, NewConnectionsGetMoreTime) {
  usual(8);
  const auto read = begin();
  read->fresh = true;
  pass(400ms, read.get(), 0);
  EXPECT_FALSE(read->cut);
  pass(100ms, read.get(), 0);
  EXPECT_TRUE(read->cut);
}

TEST_F(StragglerDetectorTest, KnowsNothingWithoutOthersToCompareWith) {
  usual(3);
  const auto read = begin();
  pass(10s, read.get(), 0);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, LeavesReadsThatWaitForTheServersSake) {
  usual(8);
  const auto read = begin();
  read->pausing = true;
  pass(10s, read.get(), 0);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, AStorageThatIsSlowForAllIsNotAskedMore) {
  for (int i = 0; i < 8; ++i) {
    auto read = begin();
    now_ += 6s;
    end(read);
  }
  const auto read = begin();
  pass(6s, read.get(), kBytes / 300);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, TheSameBytesAreCutAFewTimesOnly) {
  usual(8);
  const auto read = begin(3);
  pass(10s, read.get(), 0);
  EXPECT_FALSE(read->cut);
}

TEST_F(StragglerDetectorTest, CutsAreFewAgainstAllReads) {
  usual(8);
  for (int i = 0; i < 40; ++i) {
    const auto read = begin();
    pass(1s, read.get(), 0);
    detector_.ended(read.get(), now_);
    usual(1);
  }
  EXPECT_GE(detector_.aborts(), 4u);
  EXPECT_LE(detector_.aborts(), 4u + (8 + 2 * 40) / 16);
}

TEST_F(StragglerDetectorTest, OneAtATimeAndTheOldestFirst) {
  usual(8);
  const auto first = begin();
  const auto second = begin();
  while (!first->cut && !second->cut) pass(20ms, first.get(), 0);
  EXPECT_TRUE(first->cut);
  EXPECT_FALSE(second->cut);
}

}  // namespace
}  // namespace streamer
