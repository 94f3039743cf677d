#include "source/http/content_samples.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>
#include <string>

namespace streamer::http {
namespace {

constexpr const char* kThen = "Sun, 06 Nov 1994 08:49:36 GMT";
constexpr const char* kNow = "Sun, 06 Nov 1994 08:49:37 GMT";  // 0x2ebc98a1 seconds
constexpr const char* kLater = "Sun, 06 Nov 1994 08:49:38 GMT";

bool pinned(const std::string& validator, const std::string& written) {
  Response response;
  response.headers = {{"date", kNow}};
  if (!written.empty()) response.headers.push_back({"last-modified", written});
  return pins_content({validator, "", false}, response);
}

TEST(ContentSamples, ATimeInTheSecondOfTheResponsePinsNothing) {
  EXPECT_TRUE(pinned(kThen, kThen));
  EXPECT_FALSE(pinned(kNow, kNow));
  EXPECT_FALSE(pinned(kLater, kLater));
}

TEST(ContentSamples, AnEtagPinsUnlessItIsWeakOrMadeOfSuchATime) {
  EXPECT_FALSE(pinned("", ""));
  EXPECT_FALSE(pinned("", kThen));
  EXPECT_FALSE(pinned("W/\"1\"", kThen));
  EXPECT_TRUE(pinned("\"1\"", ""));
  EXPECT_TRUE(pinned("\"1\"", kNow));
  EXPECT_TRUE(pinned("\"2ebc98a1-5\"", kThen));
  EXPECT_FALSE(pinned("\"2ebc98a1-5\"", kNow));
  EXPECT_TRUE(pinned("\"2ebc98a15\"", kNow));
  EXPECT_TRUE(pinned("\"2ebc98a0-5\"", kNow));
  EXPECT_TRUE(pinned("\"-5\"", kNow));
}

class Samples : public ::testing::Test {
 protected:
  static std::vector<std::byte> bytes(char value, std::size_t size) {
    std::vector<std::byte> out(size);
    std::memset(out.data(), value, size);
    return out;
  }
};

TEST_F(Samples, TheEndOfThePrefixComesFirst) {
  EXPECT_FALSE(ContentSamples({}).next());
  const auto prefix = bytes('p', 3000);
  ContentSamples samples(prefix);
  const auto sample = samples.next();
  ASSERT_TRUE(sample);
  EXPECT_EQ(sample->offset, 3000 - 1024u);
  EXPECT_EQ(sample->bytes, bytes('p', 1024));
}

TEST_F(Samples, EachReadThatWasKeptComes) {
  ContentSamples samples(bytes('p', 10));
  auto a = bytes('a', 5000), b = bytes('b', 7);
  const std::array<iovec, 2> first{iovec{nullptr, 100}, iovec{a.data(), a.size()}};
  samples.keep(1000, first);
  const iovec second{b.data(), b.size()};
  samples.keep(9000, {&second, 1});
  std::set<std::uint64_t> offsets;
  for (int i = 0; i < 50; ++i) {
    const auto sample = samples.next();
    offsets.insert(sample->offset);
    EXPECT_EQ(sample->bytes, sample->offset == 1100 ? bytes('a', 1024) : b);
  }
  EXPECT_EQ(offsets, (std::set<std::uint64_t>{1100, 9000}));
}

TEST_F(Samples, TheyAreBounded) {
  ContentSamples samples({});
  auto data = bytes('d', 10);
  const iovec part{data.data(), data.size()};
  for (std::uint64_t i = 0; i < 100; ++i) samples.keep(i * 10, {&part, 1});
  std::set<std::uint64_t> offsets;
  for (int i = 0; i < 1000; ++i) offsets.insert(samples.next()->offset);
  EXPECT_EQ(offsets.size(), 16u);
}

TEST_F(Samples, AReadOfGapsAloneLeavesNone) {
  ContentSamples samples({});
  const iovec gap{nullptr, 100};
  samples.keep(0, {&gap, 1});
  samples.keep(100, {});
  EXPECT_FALSE(samples.next());
}

}  // namespace
}  // namespace streamer::http
