#include "source/http/client/retry.h"

#include <gtest/gtest.h>

#include <set>

#include "source/http/client/bandwidth.h"
#include "source/http/range_read.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

TEST(Backoff, PausesGrowToALimit) {
  Backoff backoff(100);
  milliseconds least{50};
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(backoff.another());
    const milliseconds pause = backoff.pause(milliseconds(0));
    EXPECT_GE(pause, std::min(least, milliseconds(2'500)));
    EXPECT_LE(pause, std::min(2 * least, milliseconds(5'000)));
    least = std::min(2 * least, milliseconds(2'500));
  }
}

TEST(Backoff, CountsAttempts) {
  Backoff backoff(3);
  EXPECT_TRUE(backoff.another());
  EXPECT_TRUE(backoff.another());
  EXPECT_FALSE(backoff.another());
  backoff.forgive();
  EXPECT_TRUE(backoff.another());
  EXPECT_FALSE(backoff.another(2));
}

TEST(Backoff, PausesGrowAnewAfterSomeBytes) {
  Backoff backoff(20);
  for (int i = 0; i < 19; ++i) {
    backoff.shorten();
    ASSERT_TRUE(backoff.another());
    EXPECT_LE(backoff.pause(milliseconds(0)), milliseconds(100));
  }
  EXPECT_FALSE(backoff.another()) << "they count as failures";
}

TEST(Backoff, ServersMayAskForLongerPauses) {
  Backoff backoff(3);
  ASSERT_TRUE(backoff.another());
  for (int i = 0; i < 100; ++i) {
    const milliseconds pause = backoff.pause(milliseconds(7000));
    EXPECT_GE(pause, milliseconds(7000));
    EXPECT_LE(pause, milliseconds(10'500));
  }
}

TEST(Backoff, ClientsDoNotComeBackAtOnce) {
  std::set<milliseconds> pauses;
  for (int i = 0; i < 16; ++i) pauses.insert(Backoff(3).pause(milliseconds(2000)));
  EXPECT_GE(*pauses.rbegin() - *pauses.begin(), milliseconds(300));
}

TEST(Backoff, MayHaveNoLimit) {
  Backoff backoff(0);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(backoff.another());
  EXPECT_FALSE(backoff.another(4));
}

TEST(RetryBudget, EndsWithoutProgressOfTheWholeSource) {
  const std::chrono::seconds second(1);
  const Clock::time_point start = Clock::now();
  RetryBudget budget(60 * second);
  const auto exhausted = [&](Clock::time_point since, Clock::time_point now) {
    return budget.left(since, now) <= milliseconds(0);
  };
  EXPECT_FALSE(exhausted(start, start + 59 * second));
  EXPECT_TRUE(exhausted(start, start + 60 * second));
  budget.progress(start + 50 * second);  // of another request
  EXPECT_FALSE(exhausted(start, start + 109 * second));
  EXPECT_TRUE(exhausted(start, start + 110 * second));
  // What came before the failure began is no measure of it.
  EXPECT_FALSE(exhausted(start + 500 * second, start + 559 * second));
  for (int i = 0; i < 700; ++i) budget.progress(start + i * second);
  EXPECT_TRUE(exhausted(start, start + 600 * second)) << "it fails whatever the others do";
  EXPECT_FALSE(exhausted(start + 500 * second, start + 699 * second));
}

TEST(RetryBudget, ArrivalsAreProgressButPayForNothing) {
  const std::chrono::seconds second(1);
  const Clock::time_point start = Clock::now();
  RetryBudget budget(60 * second);
  budget.arrived(start + 50 * second);
  budget.arrived(start + 40 * second);
  EXPECT_EQ(budget.left(start, start + 50 * second), 60 * second);
  while (budget.take(start) == milliseconds(0)) {
  }
  for (int i = 0; i < 1000; ++i) budget.arrived(start);
  EXPECT_GT(budget.take(start), milliseconds(0));
}

TEST(RetryBudget, TellsHowLongIsLeft) {
  const std::chrono::seconds second(1);
  const Clock::time_point start = Clock::now();
  RetryBudget budget(60 * second);
  EXPECT_EQ(budget.left(start, start), 60 * second);
  EXPECT_EQ(budget.left(start, start + 45 * second), 15 * second);
  budget.progress(start + 40 * second);
  EXPECT_EQ(budget.left(start, start + 45 * second), 55 * second);
  for (int i = 0; i < 590; ++i) budget.progress(start + i * second);
  EXPECT_EQ(budget.left(start, start + 590 * second), 10 * second) << "it alone fails";
}

TEST(RetryBudget, SlowsRetriesThatServeNothing) {
  const Clock::time_point now = Clock::now();
  RetryBudget budget(std::chrono::seconds(60));
  int free = 0;
  while (budget.take(now) == milliseconds(0)) ++free;
  EXPECT_EQ(free, 100);
  milliseconds longest{0};
  for (int i = 0; i < 1000; ++i) longest = std::max(longest, budget.take(now));
  EXPECT_EQ(longest, milliseconds(5000));
  for (int i = 0; i < 60; ++i) budget.progress(now);
  EXPECT_EQ(budget.take(now), milliseconds(0)) << "requests that are served pay for retries";
  EXPECT_EQ(budget.take(now + std::chrono::seconds(60)), milliseconds(0));
}

TEST(RetryBudget, HalfOfTheRequestsMayFail) {
  const Clock::time_point now = Clock::now();
  RetryBudget budget(std::chrono::seconds(60));
  for (int i = 0; i < 10'000; ++i) {
    EXPECT_EQ(budget.take(now), milliseconds(0));
    budget.progress(now);
  }
}

TEST(RetryAfter, ParsesSecondsAndDates) {
  EXPECT_EQ(parse_retry_after("3"), milliseconds(3000));
  EXPECT_EQ(parse_retry_after(" 3600 "), milliseconds(60'000));
  EXPECT_EQ(parse_retry_after(""), milliseconds(0));
  EXPECT_EQ(parse_retry_after("soon"), milliseconds(0));
  EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), milliseconds(0));
  const milliseconds later = parse_retry_after(http_date(std::time(nullptr) + 55));
  EXPECT_GT(later, milliseconds(15'000));
  EXPECT_LE(later, milliseconds(55'000));
}

TEST(Bandwidth, BooksAddUp) {
  // At 1 MB/s a second's bytes may not pass before a second is over, less what may burst.
  std::chrono::nanoseconds pause{0};
  for (int i = 0; i < 10; ++i) pause = book_bandwidth(100'000, 1'000'000);
  EXPECT_GT(pause, milliseconds(900));
  EXPECT_LE(pause, milliseconds(1000));
}

TEST(ContentRange, ParsesEveryForm) {
  const auto range = parse_content_range("bytes 10-19/100");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 10u);
  EXPECT_EQ(range->last, 19u);
  EXPECT_EQ(range->total, 100u);
  EXPECT_FALSE(parse_content_range("bytes 10-19/*")->total);
  EXPECT_EQ(parse_content_range("bytes */100")->total, 100u);
  EXPECT_FALSE(parse_content_range("bytes */100")->first);
  for (const char* text : {"", "bytes", "items 1-2/3", "bytes 5-2/9", "bytes -1-2/9", "bytes 1-2",
                           "bytes 1-x/9", "bytes 1-2/"}) {
    EXPECT_FALSE(parse_content_range(text)) << text;
  }
}

}  // namespace
}  // namespace streamer::http
