#include "source/http/auth/server_clock.h"

#include <gtest/gtest.h>

#include "text/encoding.h"

namespace streamer::http {
namespace {

Response refusal(const std::string& url, std::time_t theirs, std::time_t signed_at) {
  Response response;
  response.url = url;
  response.status = 403;
  response.signed_at = signed_at;
  response.headers.push_back({"date", http_date(theirs)});
  return response;
}

std::time_t offset(const std::string& url) { return server_time(url) - std::time(nullptr); }

TEST(ServerClock, IsLearnedByOriginForAllThatWereSignedBefore) {
  for (const std::time_t skew : {2400, -2400}) {
    const std::string url = "https://h" + std::to_string(skew) + ":9000";
    const std::time_t now = std::time(nullptr);
    EXPECT_EQ(offset(url), 0);
    // Twelve requests were in flight.
    for (int i = 0; i < 12; ++i) {
      EXPECT_TRUE(learn_server_time(refusal(url + "/b/k?x", now + skew, now)));
      EXPECT_NEAR(offset(url + "/b/other"), skew, 2);
    }
    EXPECT_FALSE(learn_server_time(refusal(url, now + skew, server_time(url))));
    EXPECT_EQ(offset(url + "0/b"), 0);
  }
}

TEST(ServerClock, IsNotLearnedWithoutAReason) {
  const std::time_t now = std::time(nullptr);
  EXPECT_FALSE(learn_server_time(refusal("https://a/", now + 3600, 0)));  // not signed
  EXPECT_FALSE(learn_server_time(refusal("https://a/", now + 30, now)));
  EXPECT_FALSE(learn_server_time(refusal("https://a/", now + 2 * 86400, now)));
  Response silent = refusal("https://a/", now, now - 3600);
  silent.headers.clear();
  EXPECT_FALSE(learn_server_time(silent));
  EXPECT_EQ(offset("https://a/"), 0);
}

}  // namespace
}  // namespace streamer::http
