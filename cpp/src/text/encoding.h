// Bytes as text, digests and dates, as the signatures of clouds need them.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace streamer::http {

// Percent-encodes all but the unreserved characters of RFC 3986 and those in `keep`.
std::string percent_encode(std::string_view text, std::string_view keep = {});
std::string percent_decode(std::string_view text);
std::string hex(std::string_view bytes);
std::string base64(std::string_view bytes);
std::optional<std::string> base64_decode(std::string_view text);

std::uint64_t big_endian(std::string_view bytes);  // at most 8 of them

std::string md5(std::span<const iovec> data);                          // 16 bytes
std::string sha1(std::string_view data);                               // 20 bytes
std::string sha256(std::string_view data);                             // 32 bytes
std::string hmac_sha256(std::string_view key, std::string_view data);  // 32 bytes

std::string format_utc(std::time_t when, const char* format);     // strftime
std::string http_date(std::time_t when);                          // "Sun, 06 Nov 1994 08:49:37 GMT"
std::optional<std::time_t> parse_iso8601(std::string_view text);  // "2015-12-30T12:36:00Z"
std::optional<std::time_t> parse_http_date(std::string_view text);

}  // namespace streamer::http
