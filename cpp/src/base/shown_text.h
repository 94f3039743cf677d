// Text as errors and logs may show it: without secrets, on one line, without control characters.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace streamer {

// Replaces by "..." all text that looks like a secret: the value of a parameter, a field or a
// header whose name names a secret ("sig=...", "X-Amz-Signature=...", "access_token": "..."), the
// query of an http or https URL, the word behind "Bearer" or "Basic". Removes the user information
// of URLs.
std::string mask_secrets(std::string_view text);

// Escapes line breaks, other control characters (C0, DEL, C1), U+2028, U+2029 and the controls of
// bidirectional text as \u000a or \u202e.
std::string escape_controls(std::string_view text);

// The first `limit` bytes, at the border of a character of UTF-8, and "..." if that is not all.
std::string cut_text(std::string_view text, std::size_t limit);

// Both of the first two.
std::string shown_text(std::string_view text);

// An access key of AWS: its first and last four characters.
inline std::string shown_access_key(std::string_view key) {
  if (key.size() < 12) return "***";
  return std::string(key.substr(0, 4)).append("...").append(key.substr(key.size() - 4));
}

}  // namespace streamer
