#include "source/http/content_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "text/crc32c.h"
#include "text/crc64.h"

namespace streamer::http {
namespace {

using Kind = Checksum::Kind;

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
TEST(Crc32c, EqualsKnownValues) {
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

// Of the CRC catalogue.
TEST(Crc64Nvme, EqualsKnownValues) {
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::uint64_t>>{
           {"", 0},
           {"123456789", 0xAE8B14860A799888},
           {std::string(4'096, '\0'), 0x6482D367EB22B64E},
           {std::string(4'096, '\xff'), 0xC0DDBA7302ECA3AC}}) {
    EXPECT_EQ(crc64nvme(bytes_of(text)), expected) << text.size();
    EXPECT_EQ(crc64nvme_portable(bytes_of(text)), expected) << text.size();
  }
}

TEST(Crc64Nvme, HardwareAndCombinationAgreeWithThePortableOne) {
  const std::string text = random_text(100'003, 1);
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const std::size_t offset = random() % 1'000;
    const std::size_t size = random() % (i % 2 == 0 ? 600 : 99'000);
    const auto data = bytes_of(text).subspan(offset, size);
    const std::uint64_t expected = crc64nvme_portable(data);
    ASSERT_EQ(crc64nvme(data), expected) << size;
    const std::size_t cut = size == 0 ? 0 : random() % size;
    ASSERT_EQ(crc64nvme(data.subspan(cut), crc64nvme(data.first(cut))), expected) << size;
    ASSERT_EQ(
        crc64nvme_combine(crc64nvme(data.first(cut)), crc64nvme(data.subspan(cut)), size - cut),
        expected)
        << size;
  }
}

// Adds [offset, offset + size) of `text`, as two segments.
bool add(ContentCheck* check, const std::string& text, std::size_t offset, std::size_t size) {
  std::string copy = text.substr(offset, size);
  const std::size_t half = size / 2;
  const iovec segments[] = {{copy.data(), half}, {copy.data() + half, size - half}};
  return check->add(offset, segments) != ContentCheck::Verdict::kDiffers;
}

// A check of `text`, of which `prefix` was read when it was opened.
std::unique_ptr<ContentCheck> check_of(Kind kind, const std::string& text, std::size_t prefix,
                                       std::uint64_t more = 0) {
  auto check = std::make_unique<ContentCheck>(text.size(), bytes_of(text).first(prefix));
  const std::uint64_t sum =
      kind == Kind::kCrc32c ? crc32c(bytes_of(text)) : crc64nvme(bytes_of(text));
  check->expect({kind, sum + more});
  return check;
}

class ContentCheckTest : public testing::TestWithParam<std::tuple<Kind, std::size_t>> {};

TEST_P(ContentCheckTest, PiecesInAnyOrderAreCompared) {
  const auto [kind, prefix] = GetParam();
  const std::string text = random_text(50'000, 3);
  std::vector<std::size_t> starts;
  for (std::size_t at = 500; at < text.size(); at += 1'000) starts.push_back(at);
  std::shuffle(starts.begin(), starts.end(), std::mt19937(4));
  for (const bool damaged : {false, true}) {
    std::string arrived = text;
    if (damaged) arrived[40'123] ^= 1;
    const auto check = check_of(kind, text, prefix);
    EXPECT_FALSE(check->failed());
    // Data that follows a header of 500 bytes, which only the prefix brings.
    for (std::size_t i = 0; i < starts.size(); ++i) {
      const std::size_t size = std::min<std::size_t>(1'000, text.size() - starts[i]);
      const bool good = add(check.get(), arrived, starts[i], size);
      const bool last = i + 1 == starts.size();
      EXPECT_EQ(good, !(damaged && last)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Prefixes, ContentCheckTest,
                         testing::Combine(testing::Values(Kind::kCrc32c, Kind::kCrc64Nvme),
                                          testing::Values(500, 777, 4'096, 9'500)));

TEST(ContentCheck, TellsNothingAboutWhatIsReadInPartOrTwice) {
  const std::string text = random_text(10'000, 5);
  std::string arrived = text;
  arrived[9'000] ^= 1;
  const auto part = check_of(Kind::kCrc32c, text, 0);
  EXPECT_TRUE(add(part.get(), arrived, 0, 4'000));
  EXPECT_TRUE(add(part.get(), arrived, 5'000, 5'000));
  const auto twice = check_of(Kind::kCrc64Nvme, text, 0);
  EXPECT_TRUE(add(twice.get(), arrived, 0, 4'000));
  EXPECT_TRUE(add(twice.get(), arrived, 3'000, 7'000));
  EXPECT_TRUE(add(twice.get(), arrived, 4'000, 6'000));
}

TEST(ContentCheck, WorksWithoutAPrefix) {
  const std::string text = random_text(10'000, 6);
  for (const Kind kind : {Kind::kCrc32c, Kind::kCrc64Nvme}) {
    const auto good = check_of(kind, text, 0);
    EXPECT_TRUE(add(good.get(), text, 6'000, 4'000));
    EXPECT_TRUE(add(good.get(), text, 0, 6'000));
    const auto bad = check_of(kind, text, 0, 1);
    EXPECT_TRUE(add(bad.get(), text, 0, 6'000));
    EXPECT_FALSE(add(bad.get(), text, 6'000, 4'000));
  }
}

TEST(ContentCheck, TheLastPieceHasTheVerdict) {
  const std::string text = random_text(3'000, 7);
  const auto check = check_of(Kind::kCrc64Nvme, text, 1'000);
  std::string copy = text;
  const iovec middle{copy.data() + 1'000, 1'000};
  const iovec end{copy.data() + 2'000, 1'000};
  EXPECT_EQ(check->add(1'000, {&middle, 1}), ContentCheck::Verdict::kNone);
  EXPECT_EQ(check->add(2'000, {&end, 1}), ContentCheck::Verdict::kMatches);
  EXPECT_EQ(check->add(2'000, {&end, 1}), ContentCheck::Verdict::kNone);
}

TEST(ContentCheck, APrefixThatIsTheWholeObject) {
  for (const Kind kind : {Kind::kCrc32c, Kind::kCrc64Nvme}) {
    EXPECT_FALSE(check_of(kind, "abc", 3)->failed());
    EXPECT_TRUE(check_of(kind, "abc", 3, 1)->failed());
    EXPECT_FALSE(check_of(kind, "abc", 2, 1)->failed());
  }
}

}  // namespace
}  // namespace streamer::http
