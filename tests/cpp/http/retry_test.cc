#include "source/http/client/retry.h"

#include <gtest/gtest.h>

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
    EXPECT_GE(pause, std::min(least, milliseconds(10'000)));
    EXPECT_LE(pause, std::min(2 * least, milliseconds(20'000)));
    least *= 2;
    if (least > milliseconds(10'000)) least = milliseconds(10'000);
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

TEST(Backoff, ServersMayAskForLongerPauses) {
  Backoff backoff(3);
  ASSERT_TRUE(backoff.another());
  EXPECT_EQ(backoff.pause(milliseconds(7000)), milliseconds(7000));
}

TEST(RetryAfter, SecondsAndDates) {
  EXPECT_EQ(parse_retry_after("3"), milliseconds(3000));
  EXPECT_EQ(parse_retry_after(" 3600 "), milliseconds(60'000));
  EXPECT_EQ(parse_retry_after(""), milliseconds(0));
  EXPECT_EQ(parse_retry_after("soon"), milliseconds(0));
  EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), milliseconds(0));
  const milliseconds later = parse_retry_after(http_date(std::time(nullptr) + 30));
  EXPECT_GT(later, milliseconds(25'000));
  EXPECT_LE(later, milliseconds(30'000));
}

TEST(Bandwidth, BooksAddUp) {
  // At 1 MB/s a second's bytes may not pass before a second is over, less what may burst.
  std::chrono::nanoseconds pause{0};
  for (int i = 0; i < 10; ++i) pause = book_bandwidth(100'000, 1'000'000);
  EXPECT_GT(pause, milliseconds(900));
  EXPECT_LE(pause, milliseconds(1000));
}

TEST(ContentRange, Forms) {
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
