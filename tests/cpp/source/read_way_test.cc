#include "source/file/read_way.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

class Facts final : public RangeFacts {
 public:
  Facts(bool costly, bool others, bool cached)
      : costly_(costly), others_(others), cached_(cached) {}
  bool cache_is_costly() const override { return costly_; }
  bool read_by_others() const override { return ++asked_others, others_; }
  bool cached() const override { return ++asked_cached, cached_; }

  mutable int asked_others = 0;
  mutable int asked_cached = 0;

 private:
  const bool costly_;
  const bool others_;
  const bool cached_;
};

struct Expected {
  FsStrategy strategy;
  bool costly, others, cached;
  ReadWay way;
};

// Every combination of facts, for strategies that depend on them.
constexpr Expected kExpected[] = {
    {FsStrategy::kAuto, false, false, false, ReadWay::kView},
    {FsStrategy::kAuto, false, false, true, ReadWay::kView},
    {FsStrategy::kAuto, false, true, false, ReadWay::kView},
    {FsStrategy::kAuto, false, true, true, ReadWay::kView},
    {FsStrategy::kAuto, true, false, false, ReadWay::kDirect},
    {FsStrategy::kAuto, true, false, true, ReadWay::kView},
    {FsStrategy::kAuto, true, true, false, ReadWay::kView},
    {FsStrategy::kAuto, true, true, true, ReadWay::kView},
    {FsStrategy::kDirect, false, false, false, ReadWay::kDirect},
    {FsStrategy::kDirect, false, false, true, ReadWay::kBuffered},
    {FsStrategy::kDirect, true, true, false, ReadWay::kDirect},
    {FsStrategy::kDirect, true, true, true, ReadWay::kBuffered},
};

TEST(ReadWay, FollowsFromTheStrategyAndTheFacts) {
  for (const Expected& row : kExpected) {
    const Facts facts(row.costly, row.others, row.cached);
    EXPECT_EQ(choose_way(row.strategy, facts), row.way)
        << fs_strategy_name(row.strategy) << row.costly << row.others << row.cached;
  }
}

TEST(ReadWay, MappedAndBufferedDependOnNothing) {
  for (const bool fact : {false, true}) {
    const Facts facts(fact, fact, fact);
    EXPECT_EQ(choose_way(FsStrategy::kMapped, facts), ReadWay::kView);
    EXPECT_EQ(choose_way(FsStrategy::kBuffered, facts), ReadWay::kBuffered);
    EXPECT_EQ(facts.asked_others + facts.asked_cached, 0);
  }
}

TEST(ReadWay, AsksTheSystemOnlyForWhatDecides) {
  const Facts cheap(false, false, false);
  choose_way(FsStrategy::kAuto, cheap);
  EXPECT_EQ(cheap.asked_others + cheap.asked_cached, 0);
  const Facts shared(true, true, false);
  choose_way(FsStrategy::kAuto, shared);
  EXPECT_EQ(shared.asked_others, 1);
  EXPECT_EQ(shared.asked_cached, 0);
  const Facts alone(true, false, false);
  choose_way(FsStrategy::kAuto, alone);
  EXPECT_EQ(alone.asked_others, 1);
  EXPECT_EQ(alone.asked_cached, 1);
}

}  // namespace
}  // namespace streamer
