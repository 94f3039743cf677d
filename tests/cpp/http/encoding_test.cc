#include "text/encoding.h"

#include <gtest/gtest.h>

namespace streamer::http {
namespace {

TEST(Encoding, PercentKeepsUnreservedOnly) {
  EXPECT_EQ(percent_encode("a-b._~Z9"), "a-b._~Z9");
  EXPECT_EQ(percent_encode("a b+c%d/\xC3\xBC"), "a%20b%2Bc%25d%2F%C3%BC");
  EXPECT_EQ(percent_encode("a/b//c", "/"), "a/b//c");
  EXPECT_EQ(percent_decode("a%20b%2Bc%25d%2f%C3%BC"), "a b+c%d/\xC3\xBC");
  EXPECT_EQ(percent_decode("100%"), "100%");
  EXPECT_EQ(percent_decode("%zz%1"), "%zz%1");
}

TEST(Encoding, Base64IsThatOfTheRfc) {
  for (const auto& [plain, coded] :
       {std::pair{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}}) {
    EXPECT_EQ(base64(plain), coded);
    EXPECT_EQ(base64_decode(coded), plain);
  }
  EXPECT_FALSE(base64_decode("a*b"));
}

TEST(Encoding, DigestsAreThoseOfTheRfc) {
  EXPECT_EQ(hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex(hmac_sha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Encoding, DatesOfHttpAndIso) {
  EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), 784111777);
  EXPECT_FALSE(parse_http_date("yesterday"));
  EXPECT_EQ(parse_iso8601("1994-11-06T08:49:37Z"), 784111777);
  EXPECT_EQ(parse_iso8601("1994-11-06T09:49:37.123+01:00"), 784111777);
  EXPECT_FALSE(parse_iso8601("1994-13-06T08:49:37Z"));
  EXPECT_FALSE(parse_iso8601(""));
}

}  // namespace
}  // namespace streamer::http
