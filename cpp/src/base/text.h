// Operations on text from users, files and servers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace streamer {

std::string lower(std::string_view text);      // ASCII, in any locale
std::string_view trim(std::string_view text);  // without the white space at both ends

// A whole number below 2^64: digits of `base` and nothing else. None if `text` is anything else.
std::optional<std::uint64_t> parse_number(std::string_view text, int base = 10);

// Appends the character `code`, at most 0x10FFFF, in UTF-8.
void append_utf8(std::uint32_t code, std::string* out);
struct Utf8Character {
  std::uint32_t code;
  std::size_t size;  // in bytes; 0: the text does not begin with UTF-8, `code` is its first byte
};
// The character at the front of `text`, which is not empty, by RFC 3629.
Utf8Character first_character(std::string_view text);
// The position of the first byte of `text` that is not UTF-8 (RFC 3629); npos if all of it is.
std::size_t find_invalid_utf8(std::string_view text);

}  // namespace streamer
