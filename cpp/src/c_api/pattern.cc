#include "c_api/pattern.h"

#include <cstddef>
#include <cstdint>

#include "base/text.h"

namespace streamer::c_api {
namespace {

// The character at `at`, which moves behind it. A byte that is not UTF-8 counts as itself.
std::uint32_t take(std::string_view text, std::size_t& at) {
  const Utf8Character character = first_character(text.substr(at));
  at += character.size == 0 ? 1 : character.size;
  return character.code;
}

// The end (']') of the set that opens before `at`, or npos: then '[' is itself. A ']' that comes
// first belongs to the set.
std::size_t set_end(std::string_view pattern, std::size_t at) {
  if (at < pattern.size() && pattern[at] == '!') ++at;
  if (at < pattern.size()) ++at;
  return pattern.find(']', at);
}

bool in_set(std::string_view set, std::uint32_t character) {
  const bool negated = !set.empty() && set.front() == '!';
  bool found = false;
  for (std::size_t at = negated ? 1 : 0; at < set.size();) {
    const std::uint32_t low = take(set, at);
    std::uint32_t high = low;
    if (at + 1 < set.size() && set[at] == '-') {
      ++at;
      high = take(set, at);
    }
    found = found || (low <= character && character <= high);
  }
  return found != negated;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;  // behind the last '*', and the text it is tried at
  std::size_t star_text = 0;
  while (true) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_text = t;
      continue;
    }
    if (t == text.size() && p == pattern.size()) return true;
    bool same = false;
    if (t < text.size() && p < pattern.size()) {
      const std::uint32_t character = take(text, t);
      const std::size_t end = pattern[p] == '[' ? set_end(pattern, p + 1) : std::string_view::npos;
      if (end != std::string_view::npos) {
        same = in_set(pattern.substr(p + 1, end - p - 1), character);
        p = end + 1;
      } else if (pattern[p] == '?') {
        same = true;
        ++p;
      } else {
        same = take(pattern, p) == character;
      }
    }
    if (same) continue;
    if (star == std::string_view::npos || star_text >= text.size()) return false;
    take(text, star_text);  // the last '*' matches one character more
    p = star;
    t = star_text;
  }
}

}  // namespace streamer::c_api
