#include "text/encoding.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <utility>

#include "base/text.h"

namespace streamer::http {
namespace {

constexpr char kUpperHex[] = "0123456789ABCDEF";
constexpr char kLowerHex[] = "0123456789abcdef";
constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};

bool unreserved(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// A field of `width` digits at `position`, within [low, high].
bool number_at(std::string_view text, std::size_t position, std::size_t width, int low, int high,
               int* value) {
  if (position + width > text.size()) return false;
  const auto number = parse_number(text.substr(position, width));
  if (!number || std::cmp_less(*number, low) || std::cmp_greater(*number, high)) return false;
  *value = static_cast<int>(*number);
  return true;
}

}  // namespace

std::string percent_encode(std::string_view text, std::string_view keep) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (unreserved(byte) || keep.find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += '%';
      out += kUpperHex[byte >> 4];
      out += kUpperHex[byte & 15];
    }
  }
  return out;
}

std::string percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string hex(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    out += kLowerHex[static_cast<unsigned char>(c) >> 4];
    out += kLowerHex[static_cast<unsigned char>(c) & 15];
  }
  return out;
}

std::string base64(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      out += i + k > bytes.size() ? '=' : kBase64[group >> (18 - 6 * k) & 63];
    }
  }
  return out;
}

std::optional<std::string> base64_decode(std::string_view text) {
  std::string out;
  std::uint32_t group = 0;
  int bits = 0;
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  for (const char c : text) {
    const std::size_t found = std::string_view(kBase64, 64).find(c);
    if (found == std::string_view::npos) return std::nullopt;
    group = group << 6 | static_cast<std::uint32_t>(found);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += static_cast<char>(group >> bits & 255);
    }
  }
  return out;
}

namespace {

std::string digest_of(std::string_view data, const EVP_MD* kind) {
  std::string digest(static_cast<std::size_t>(EVP_MD_size(kind)), '\0');
  unsigned int size = 0;
  EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(digest.data()), &size, kind,
             nullptr);
  return digest;
}

}  // namespace

std::uint64_t big_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

std::string md5(std::span<const iovec> data) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   &EVP_MD_CTX_free);
  std::string digest(16, '\0');
  // Systems in FIPS mode have no MD5.
  if (context == nullptr || EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) != 1) return {};
  for (const iovec& piece : data) EVP_DigestUpdate(context.get(), piece.iov_base, piece.iov_len);
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()), &size);
  return digest;
}

std::string sha1(std::string_view data) { return digest_of(data, EVP_sha1()); }
std::string sha256(std::string_view data) { return digest_of(data, EVP_sha256()); }

std::string hmac_sha256(std::string_view key, std::string_view data) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(data.data()), data.size(),
       reinterpret_cast<unsigned char*>(digest.data()), &size);
  return digest;
}

std::string format_utc(std::time_t when, const char* format) {
  std::tm parts{};
  gmtime_r(&when, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

std::string http_date(std::time_t when) {
  std::tm parts{};
  gmtime_r(&when, &parts);  // not strftime: names of days and months do not follow the locale
  return std::string(kDays[parts.tm_wday]) + format_utc(when, ", %d ") + kMonths[parts.tm_mon] +
         format_utc(when, " %Y %H:%M:%S GMT");
}

std::optional<std::time_t> parse_iso8601(std::string_view text) {
  std::tm parts{};
  int year = 0;
  int month = 0;
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' ||
      (text[10] != 'T' && text[10] != ' ') || text[13] != ':' || text[16] != ':' ||
      !number_at(text, 0, 4, 1970, 9999, &year) || !number_at(text, 5, 2, 1, 12, &month) ||
      !number_at(text, 8, 2, 1, 31, &parts.tm_mday) ||
      !number_at(text, 11, 2, 0, 23, &parts.tm_hour) ||
      !number_at(text, 14, 2, 0, 59, &parts.tm_min) ||
      !number_at(text, 17, 2, 0, 60, &parts.tm_sec)) {
    return std::nullopt;
  }
  parts.tm_year = year - 1900;
  parts.tm_mon = month - 1;
  std::time_t when = timegm(&parts);
  std::string_view zone = text.substr(19);
  if (!zone.empty() && zone[0] == '.') {
    const std::size_t end = zone.find_first_not_of("0123456789", 1);
    zone = end == std::string_view::npos ? std::string_view() : zone.substr(end);
  }
  int hours = 0;
  int minutes = 0;
  if (zone.size() >= 6 && (zone[0] == '+' || zone[0] == '-') &&
      number_at(zone, 1, 2, 0, 23, &hours) && number_at(zone, 4, 2, 0, 59, &minutes)) {
    const int shift = hours * 3600 + minutes * 60;
    when += zone[0] == '+' ? -shift : shift;
  }
  return when;
}

std::optional<std::time_t> parse_http_date(std::string_view text) {
  const std::size_t comma = text.find(", ");
  if (comma == std::string_view::npos) return std::nullopt;
  text.remove_prefix(comma + 2);
  std::tm parts{};
  int year = 0;
  if (text.size() < 20 || !number_at(text, 0, 2, 1, 31, &parts.tm_mday) ||
      !number_at(text, 7, 4, 1970, 9999, &year) || !number_at(text, 12, 2, 0, 23, &parts.tm_hour) ||
      !number_at(text, 15, 2, 0, 59, &parts.tm_min) ||
      !number_at(text, 18, 2, 0, 60, &parts.tm_sec)) {
    return std::nullopt;
  }
  const auto month = std::find(std::begin(kMonths), std::end(kMonths), text.substr(3, 3));
  if (month == std::end(kMonths)) return std::nullopt;
  parts.tm_mon = static_cast<int>(month - std::begin(kMonths));
  parts.tm_year = year - 1900;
  return timegm(&parts);
}

}  // namespace streamer::http
