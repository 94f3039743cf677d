#include "engine/straggler_detector.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kBytes = 8 << 20;
constexpr std::uint64_t kLeastWaste = 64 << 10;  // that an abort counts for

class StragglerDetectorTest : public testing::Test {
 protected:
  std::shared_ptr<ReadProgress> begin(int aborts = 0) {
    auto progress = std::make_shared<ReadProgress>();
    detector_.began(progress, kBytes, aborts, now_);
    return progress;
  }
  void end(const std::shared_ptr<ReadProgress>& progress) {
    progress->received = kBytes;
    detector_.ended(progress.get(), /*waited=*/0, now_);
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
  void pass(std::chrono::milliseconds time, ReadProgress* progress, std::uint64_t bytes,
            bool idle = false) {
    for (auto end = now_ + time; now_ < end;) {
      now_ += 20ms;
      progress->received += bytes;
      detector_.check(idle, now_);
    }
  }

  StragglerDetector detector_;
  StragglerDetector::TimePoint now_{1h};
};

TEST_F(StragglerDetectorTest, CutsAReadThatStalls) {
  usual(8);
  const auto read = begin();
  pass(200ms, read.get(), 0);
  EXPECT_FALSE(read->aborted);
  pass(100ms, read.get(), 0);
  EXPECT_TRUE(read->aborted);
  EXPECT_EQ(detector_.aborts(), 1u);
}

TEST_F(StragglerDetectorTest, CutsAReadThatCrawls) {
  usual(8);
  const auto read = begin();
  pass(400ms, read.get(), kBytes / 200);
  EXPECT_TRUE(read->aborted);
}

TEST_F(StragglerDetectorTest, LeavesAReadThatIsNearlyDone) {
  usual(8);
  const auto read = begin();
  read->received = kBytes * 3 / 4;
  pass(240ms, read.get(), kBytes / 60);
  EXPECT_FALSE(read->aborted);
}

TEST_F(StragglerDetectorTest, LeavesAReadThatHasCaughtUp) {
  usual(8);
  const auto read = begin();
  pass(160ms, read.get(), kBytes / 1000);
  pass(80ms, read.get(), kBytes / 5);
  EXPECT_FALSE(read->aborted);
}

TEST_F(StragglerDetectorTest, NewConnectionsGetMoreTime) {
  usual(8);
  const auto read = begin();
  read->fresh = true;
  pass(400ms, read.get(), 0);
  EXPECT_FALSE(read->aborted);
  pass(100ms, read.get(), 0);
  EXPECT_TRUE(read->aborted);
}

TEST_F(StragglerDetectorTest, KnowsNothingWithoutOthersToCompareWith) {
  usual(3);
  const auto read = begin();
  pass(10s, read.get(), 0);
  EXPECT_FALSE(read->aborted);
}

TEST_F(StragglerDetectorTest, LeavesReadsThatWaitForTheServersSake) {
  usual(8);
  const auto read = begin();
  read->pausing = true;
  pass(10s, read.get(), 0);
  EXPECT_FALSE(read->aborted);
}

TEST_F(StragglerDetectorTest, AStorageThatIsSlowForAllIsNotAskedMore) {
  for (int i = 0; i < 8; ++i) {
    auto read = begin();
    now_ += 6s;
    end(read);
  }
  const auto read = begin();
  pass(6s, read.get(), kBytes / 300);
  EXPECT_FALSE(read->aborted);
}

TEST_F(StragglerDetectorTest, TheSameBytesGetMoreTimeEachTime) {
  usual(8);
  const auto read = begin(3);
  pass(840ms, read.get(), 0);
  EXPECT_FALSE(read->aborted);
  pass(100ms, read.get(), 0);
  EXPECT_TRUE(read->aborted);
}

TEST_F(StragglerDetectorTest, WhatIsSlowAndNoTrickleIsCutAFewTimesOnly) {
  usual(8);
  const auto read = begin(3);
  pass(4s, read.get(), kBytes / 40);  // a tenth of the usual rate, nearly
  EXPECT_FALSE(read->aborted);
}

// Whether each of 200 reads that come at a part of the usual rate is aborted.
TEST_F(StragglerDetectorTest, AbortsWasteAPartOfTheBytesOnly) {
  usual(8);
  std::uint64_t wasted = 0;
  for (int i = 0; i < 200; ++i) {
    const auto read = begin();
    for (int k = 0; k < 20 && !read->aborted; ++k) pass(20ms, read.get(), kBytes / 40);
    wasted += read->aborted ? kLeastWaste : 0;
    detector_.ended(read.get(), 0, now_);
  }
  EXPECT_GE(detector_.aborts(), 100u);
  EXPECT_LE(wasted, (8 << 20) + 208 * kBytes / 32);
}

TEST_F(StragglerDetectorTest, ATrickleEndsWhateverTheBudget) {
  usual(8);
  for (int i = 0; i < 500; ++i) {
    const auto read = begin();
    pass(600ms, read.get(), 400);  // 20 kB/s
    EXPECT_TRUE(read->aborted) << i;
    detector_.ended(read.get(), 0, now_);
  }
}

TEST_F(StragglerDetectorTest, WhileEverybodyWaitsForItAReadIsTakenOverSooner) {
  usual(8);
  const auto read = begin();
  pass(140ms, read.get(), kBytes / 100, /*idle=*/true);
  EXPECT_TRUE(read->aborted);
}

TEST_F(StragglerDetectorTest, WhileEverybodyWaitsOneReadIsEnoughToCompareWith) {
  usual(1);
  const auto read = begin();
  pass(2s, read.get(), 400);
  EXPECT_FALSE(read->aborted);
  pass(20ms, read.get(), 400, /*idle=*/true);
  EXPECT_TRUE(read->aborted);
}

TEST_F(StragglerDetectorTest, OneThatIsAsFastAsOthersIsNeverTakenOver) {
  usual(8);
  for (int i = 0; i < 20; ++i) {
    const auto read = begin();
    pass(60ms, read.get(), kBytes / 4, /*idle=*/true);
    EXPECT_FALSE(read->aborted);
    end(read);
  }
}

TEST_F(StragglerDetectorTest, TheTimeUntilResponsesBeginIsNotTakenForARate) {
  for (int i = 0; i < 8; ++i) {
    auto read = begin();
    now_ += 500ms;
    read->received = kBytes;
    detector_.ended(read.get(), /*waited=*/0.44, now_);
  }
  // A short read waits as long as a long one.
  auto progress = std::make_shared<ReadProgress>();
  detector_.began(progress, kBytes / 8, 0, now_);
  pass(480ms, progress.get(), 0, /*idle=*/true);
  EXPECT_FALSE(progress->aborted);
}

}  // namespace
}  // namespace streamer
