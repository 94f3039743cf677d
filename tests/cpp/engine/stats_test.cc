#include "engine/stats.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

SchedulerTimes times(double storage, double consumer, double memory) {
  SchedulerTimes times;
  times.wait_storage = storage;
  times.wait_consumer = consumer;
  times.wait_memory = memory;
  return times;
}

TEST(BoundedBy, NothingWhereNothingWaitedForATenthOfTheTime) {
  EXPECT_EQ(bounded_by(10, times(0.9, 0.9, 5)), "none");
  EXPECT_EQ(bounded_by(0, times(0, 0, 0)), "none");
}

TEST(BoundedBy, TheConsumerWhereReadingPausedForIt) {
  EXPECT_EQ(bounded_by(10, times(1, 6, 0)), "consumer");
}

TEST(BoundedBy, TheStorageWhereTheConsumerWaited) {
  EXPECT_EQ(bounded_by(10, times(6, 1, 0)), "storage");
}

TEST(BoundedBy, TheWindowWhereBytesThatWereWaitedForHadNowhereToGo) {
  EXPECT_EQ(bounded_by(10, times(6, 1, 4)), "window");
}

TEST(BoundedBy, WhatTheNetworkIsBoundedByWhereThatIsKnown) {
  using Bound = ConcurrencyController::Bound;
  const std::pair<Bound, const char*> names[] = {{Bound::kUnknown, "storage"},
                                                 {Bound::kLink, "link"},
                                                 {Bound::kConnections, "connections"},
                                                 {Bound::kProcessors, "processors"}};
  for (const auto& [bound, name] : names) {
    SchedulerTimes waits = times(6, 1, 0);
    waits.bound = bound;
    EXPECT_EQ(bounded_by(10, waits), name);
    waits.wait_consumer = 7;
    EXPECT_EQ(bounded_by(10, waits), "consumer");
  }
}

TEST(StatsCollector, SumsWhatWasReadAndDelivered) {
  StatsCollector collector;
  collector.started(0);
  ReadReport report;
  report.strategy = "buffered";
  report.retries = 2;
  collector.read(report, 100);
  report.strategy = "mapped";
  collector.read(report, 50);
  collector.delivered(SourceKind::kFile, 150);
  collector.note("why", "because");
  MemoryBudget budget(1000);
  ASSERT_TRUE(budget.try_take(300));
  const Stats stats = collector.snapshot(SchedulerTimes(), budget);
  EXPECT_EQ(stats.bytes, 150u);
  EXPECT_EQ(stats.bytes_by_source[static_cast<int>(SourceKind::kFile)], 150u);
  EXPECT_EQ(stats.requests, 2u);
  EXPECT_EQ(stats.retries, 4u);
  EXPECT_EQ(stats.bytes_by_strategy.at("buffered"), 100u);
  EXPECT_EQ(stats.bytes_by_strategy.at("mapped"), 50u);
  EXPECT_EQ(stats.peak_memory, 300u);
  EXPECT_EQ(stats.memory_limit, 1000u);
  EXPECT_EQ(stats.notes.at("why"), "because");
}

}  // namespace
}  // namespace streamer
