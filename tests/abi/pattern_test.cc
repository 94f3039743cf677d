#include "c_api/pattern.h"

#include <gtest/gtest.h>

namespace streamer::c_api {
namespace {

struct Case {
  const char* pattern;
  const char* text;
  bool match;
};

// What Python's fnmatch.fnmatchcase answers.
constexpr Case kCases[] = {
    {"", "", true},
    {"", "a", false},
    {"*", "", true},
    {"*", "a/b/c", true},
    {"*.safetensors", "models/a.safetensors", true},
    {"*.safetensors", "models/a.safetensors.json", false},
    {"model-*-of-*.safetensors", "model-00001-of-00002.safetensors", true},
    {"a*b*c", "a-b-b-c", true},
    {"a*b*c", "a-b-b-", false},
    {"?", "a", true},
    {"?", "", false},
    {"?", "\xC3\xA9", true},  // one character of two bytes
    {"??", "\xC3\xA9", false},
    {"[abc]x", "bx", true},
    {"[abc]x", "dx", false},
    {"[!abc]x", "dx", true},
    {"[!abc]x", "ax", false},
    {"[a-c]", "b", true},
    {"[a-c]", "d", false},
    {"[a-]", "-", true},
    {"[-a]", "-", true},
    {"[]]", "]", true},
    {"[!]]", "]", false},
    {"[!]]", "a", true},
    {"[", "[", true},
    {"[abc", "[abc", true},
    {"[\xC3\xA0-\xC3\xBF]", "\xC3\xA9", true},
    {"a\\*", "a\\b", true},  // a backslash is itself
    {"A", "a", false},
    {".*", ".hidden", true},
    {"*", ".hidden", true},
};

TEST(Pattern, MatchesAsFnmatchDoes) {
  for (const Case& c : kCases) {
    EXPECT_EQ(matches(c.pattern, c.text), c.match) << '"' << c.pattern << "\" \"" << c.text << '"';
  }
}

TEST(Pattern, ManyStarsDoNotTakeForever) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_FALSE(matches(pattern + "b", std::string(5000, 'a')));
}

}  // namespace
}  // namespace streamer::c_api
