#include "base/text.h"

#include <gtest/gtest.h>

#include <string>

namespace streamer {
namespace {

bool is_surrogate(std::uint32_t code) { return code >= 0xD800 && code <= 0xDFFF; }

TEST(Utf8, ReadsEachCharacterThatItWrites) {
  for (std::uint32_t code = 0; code <= 0x10FFFF; ++code) {
    if (is_surrogate(code)) continue;
    std::string text;
    append_utf8(code, &text);
    const Utf8Character read = first_character(text + "x");
    ASSERT_EQ(read.code, code);
    ASSERT_EQ(read.size, text.size()) << code;
    ASSERT_EQ(find_invalid_utf8(text), std::string::npos) << code;
    // Without its last byte it is not a character.
    if (text.size() > 1) {
      ASSERT_EQ(first_character(text.substr(0, text.size() - 1)).size, 0u) << code;
    }
  }
}

TEST(Utf8, RefusesEachSurrogateAndEachLongForm) {
  for (std::uint32_t code = 0xD800; code <= 0xDFFF; ++code) {
    std::string text;
    append_utf8(code, &text);
    ASSERT_EQ(first_character(text).size, 0u) << code;
  }
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3F)); };
    const auto refused = [&](const std::string& text) {
      const Utf8Character read = first_character(text);
      return read.size == 0 && read.code == static_cast<unsigned char>(text[0]);
    };
    if (code < 0x80) {
      ASSERT_TRUE(refused({static_cast<char>(0xC0 | code >> 6), tail(0)})) << code;
    }
    if (code < 0x800) {
      ASSERT_TRUE(refused({static_cast<char>(0xE0), tail(6), tail(0)})) << code;
    }
    ASSERT_TRUE(refused({static_cast<char>(0xF0), tail(12), tail(6), tail(0)})) << code;
  }
}

TEST(Utf8, NamesTheByteThatIsNotACharacter) {
  EXPECT_EQ(find_invalid_utf8("ok \xff"), 3u);
  EXPECT_EQ(find_invalid_utf8("\xf4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(first_character("\xff").code, 0xFFu);
  EXPECT_EQ(first_character("\x80").size, 0u);
}

TEST(Text, ANumberIsDigitsAndNothingElse) {
  EXPECT_EQ(parse_number("0"), 0u);
  EXPECT_EQ(parse_number("007"), 7u);
  EXPECT_EQ(parse_number("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse_number("fF", 16), 255u);
  for (const char* text :
       {"", " 1", "1 ", "-1", "+1", "1.0", "1e3", "0x1", "18446744073709551616"}) {
    EXPECT_EQ(parse_number(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace streamer
