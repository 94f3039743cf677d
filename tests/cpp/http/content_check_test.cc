#include "source/http/content_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "text/crc32c.h"

namespace streamer::http {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string random_text(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Values of RFC 3720, B.4, and of the check of the CRC catalogue.
TEST(Crc32c, KnownValues) {
  for (const auto& [text, expected] :
       std::vector<std::pair<std::string, std::uint32_t>>{{"", 0},
                                                          {"123456789", 0xE3069283},
                                                          {std::string(32, '\0'), 0x8A9136AA},
                                                          {std::string(32, '\xff'), 0x62A8AB43}}) {
    EXPECT_EQ(crc32c(bytes_of(text)), expected);
    EXPECT_EQ(crc32c_portable(bytes_of(text)), expected);
  }
}

TEST(Crc32c, HardwareAndCombinationAgreeWithThePortableOne) {
  const std::string text = random_text(100'003, 1);
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const std::size_t offset = random() % 64;
    const std::size_t size = random() % (i % 3 == 0 ? text.size() - offset : 9000);
    const auto data = bytes_of(text).subspan(offset, size);
    const std::uint32_t expected = crc32c_portable(data);
    ASSERT_EQ(crc32c(data), expected) << size;
    const std::size_t cut = size == 0 ? 0 : random() % size;
    ASSERT_EQ(crc32c(data.subspan(cut), crc32c(data.first(cut))), expected) << size;
    ASSERT_EQ(crc32c_combine(crc32c(data.first(cut)), crc32c(data.subspan(cut)), size - cut),
              expected)
        << size;
  }
}

// Adds [offset, offset + size) of `text`, as two segments.
bool add(ContentCheck* check, const std::string& text, std::size_t offset, std::size_t size) {
  std::string copy = text.substr(offset, size);
  const std::size_t half = size / 2;
  const iovec segments[] = {{copy.data(), half}, {copy.data() + half, size - half}};
  return check->add(offset, segments);
}

class ContentCheckTest : public testing::TestWithParam<std::size_t> {};

TEST_P(ContentCheckTest, PiecesInAnyOrderAreCompared) {
  const std::size_t prefix = GetParam();
  const std::string text = random_text(50'000, 3);
  std::vector<std::size_t> starts;
  for (std::size_t at = 500; at < text.size(); at += 1'000) starts.push_back(at);
  std::shuffle(starts.begin(), starts.end(), std::mt19937(4));
  for (const bool damaged : {false, true}) {
    std::string arrived = text;
    if (damaged) arrived[40'123] ^= 1;
    ContentCheck check(crc32c(bytes_of(text)), text.size(), bytes_of(text).first(prefix));
    EXPECT_FALSE(check.failed());
    // Data that follows a header of 500 bytes, which only the prefix brings.
    for (std::size_t i = 0; i < starts.size(); ++i) {
      const std::size_t size = std::min<std::size_t>(1'000, text.size() - starts[i]);
      const bool good = add(&check, arrived, starts[i], size);
      const bool last = i + 1 == starts.size();
      EXPECT_EQ(good, !(damaged && last)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Prefixes, ContentCheckTest, testing::Values(500, 777, 4'096, 9'500));

TEST(ContentCheck, TellsNothingAboutWhatIsReadInPartOrTwice) {
  const std::string text = random_text(10'000, 5);
  std::string arrived = text;
  arrived[9'000] ^= 1;
  ContentCheck part(crc32c(bytes_of(text)), text.size(), {});
  EXPECT_TRUE(add(&part, arrived, 0, 4'000));
  EXPECT_TRUE(add(&part, arrived, 5'000, 5'000));
  ContentCheck twice(crc32c(bytes_of(text)), text.size(), {});
  EXPECT_TRUE(add(&twice, arrived, 0, 4'000));
  EXPECT_TRUE(add(&twice, arrived, 3'000, 7'000));
  EXPECT_TRUE(add(&twice, arrived, 4'000, 6'000));
}

TEST(ContentCheck, WorksWithoutAPrefix) {
  const std::string text = random_text(10'000, 6);
  ContentCheck good(crc32c(bytes_of(text)), text.size(), {});
  EXPECT_TRUE(add(&good, text, 6'000, 4'000));
  EXPECT_TRUE(add(&good, text, 0, 6'000));
  ContentCheck bad(crc32c(bytes_of(text)) + 1, text.size(), {});
  EXPECT_TRUE(add(&bad, text, 0, 6'000));
  EXPECT_FALSE(add(&bad, text, 6'000, 4'000));
}

TEST(ContentCheck, APrefixThatIsTheWholeObject) {
  const std::string text = "abc";
  EXPECT_FALSE(ContentCheck(crc32c(bytes_of(text)), 3, bytes_of(text)).failed());
  EXPECT_TRUE(ContentCheck(1, 3, bytes_of(text)).failed());
}

}  // namespace
}  // namespace streamer::http
