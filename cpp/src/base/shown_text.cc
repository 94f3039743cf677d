#include "base/shown_text.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>

#include "base/text.h"

namespace streamer {
namespace {

constexpr std::string_view kMask = "...";
constexpr std::string_view kSpace = " \t\r\n\v\f";
constexpr std::string_view kValueEnd = " \t\r\n\v\f&\"'<>;,(){}[]|`";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.'; }
bool contains(std::string_view set, char c) { return set.find(c) != std::string_view::npos; }

// Names are compared in lower case, without '-', '_' and '.'.
bool names_secret(std::string_view written) {
  constexpr std::array<std::string_view, 5> kWhole = {"sig", "auth", "pwd", "sas", "jwt"};
  constexpr std::array<std::string_view, 10> kPart = {
      "signature", "token",      "credential", "secret",    "password",
      "passwd",    "accountkey", "apikey",     "assertion", "authorization"};
  std::string name;
  for (const char c : lower(written)) {
    if (c != '-' && c != '_' && c != '.') name += c;
  }
  return std::find(kWhole.begin(), kWhole.end(), name) != kWhole.end() ||
         std::any_of(kPart.begin(), kPart.end(),
                     [&](std::string_view part) { return name.find(part) != std::string::npos; });
}

// The value of a switch is not a secret, under any name.
bool is_switch(std::string_view value) {
  const std::string word = lower(value);
  return word.empty() || word == "0" || word == "1" || word == "true" || word == "false" ||
         word == kMask;
}

class Masker {
 public:
  explicit Masker(std::string_view text) : text_(text) {}

  std::string run() {
    while (at_ < text_.size()) {
      if (is_name(text_[at_]) && (at_ == 0 || !is_name(text_[at_ - 1]))) {
        if (word()) continue;
      } else if (text_[at_] == '/' && (at_ == 0 || text_[at_ - 1] != '/')) {
        if (authority()) continue;
      }
      out_ += text_[at_++];
    }
    return std::move(out_);
  }

 private:
  bool starts(std::size_t at, std::string_view what) const {
    return text_.substr(std::min(at, text_.size())).starts_with(what);
  }
  std::size_t end_of(std::size_t from, std::string_view ends) const {
    return std::min(text_.find_first_of(ends, from), text_.size());
  }
  void copy(std::size_t end) {
    out_ += text_.substr(at_, end - at_);
    at_ = end;
  }
  void mask(std::size_t end) {
    out_ += kMask;
    at_ = end;
  }

  // A name, and its value if that is a secret. False: nothing was done.
  bool word() {
    std::size_t end = at_;
    while (end < text_.size() && is_name(text_[end])) ++end;
    const std::string_view name = text_.substr(at_, end - at_);
    const std::string small = lower(name);
    const bool http = small.ends_with("http") || small.ends_with("https");
    if (http && starts(end, ":/")) return url(end);
    if ((small == "bearer" || small == "basic") && end < text_.size() && text_[end] == ' ') {
      const std::size_t start = text_.find_first_not_of(' ', end);
      if (start != std::string_view::npos && text_.size() - start >= 8 && secret_word(start)) {
        copy(start);
        mask(end_of(at_, kValueEnd));
        return true;
      }
    }
    // "key" is usually the name of an object.
    const bool parameter = at_ > 0 && (text_[at_ - 1] == '?' || text_[at_ - 1] == '&');
    if (!names_secret(name) && !(small == "key" && parameter)) {
      copy(end);
      return true;
    }
    const std::size_t value = value_of(end);
    if (value == std::string_view::npos) {
      copy(end);
      return true;
    }
    std::size_t value_end = end_of(value, kValueEnd);
    if (starts(end, "%3D") || starts(end, "%3d")) {
      value_end = std::min(value_end, std::min(text_.find("%26", value), text_.size()));
    }
    if (is_switch(text_.substr(value, value_end - value))) {
      copy(value_end);
      return true;
    }
    copy(value);
    // "Authorization: Bearer TOKEN": the scheme is not a secret, the rest is.
    const std::string scheme = lower(text_.substr(value, value_end - value));
    if (scheme == "bearer" || scheme == "basic") return true;
    mask(value_end);
    return true;
  }

  // "Basic" and "Bearer" are words of English, too; a token has a digit, a sign or two cases.
  bool secret_word(std::size_t start) const {
    const std::string_view word = text_.substr(start, end_of(start, kValueEnd) - start);
    return word.size() >= 8 && std::any_of(word.begin(), word.end(), [](char c) {
             return !(c >= 'a' && c <= 'z') && c != '.';
           });
  }

  // The start of the value of a name that ends at `end`; npos: it has none.
  std::size_t value_of(std::size_t end) const {
    if (starts(end, "%3D") || starts(end, "%3d")) return end + 3;
    if (starts(end, "=")) {
      const bool quoted = starts(end + 1, "\"") || starts(end + 1, "'");
      return end + (quoted ? 2 : 1);
    }
    if (starts(end, "\"")) return value_of_member(end + 1);
    if (starts(end, ">") && at_ > 0 && text_[at_ - 1] == '<') return end + 1;
    if (starts(end, ":") && is_header(end)) return skip_space(end + 1);
    return std::string_view::npos;
  }
  // Of JSON: "name": "value".
  std::size_t value_of_member(std::size_t at) const {
    at = skip_space(at);
    if (!starts(at, ":")) return std::string_view::npos;
    at = skip_space(at + 1);
    return starts(at, "\"") ? at + 1 : std::string_view::npos;
  }
  std::size_t skip_space(std::size_t at) const {
    while (at < text_.size() && contains(kSpace, text_[at])) ++at;
    return at;
  }
  bool is_header(std::size_t end) const {
    const std::string name = lower(text_.substr(at_, end - at_));
    return name == "authorization" || name.starts_with("x-amz-") || name.starts_with("x-aws-");
  }

  // An http or https URL whose scheme ends at `colon`: copied without user and query.
  bool url(std::size_t colon) {
    std::size_t start = colon + 1;
    while (start < text_.size() && text_[start] == '/') ++start;
    const std::size_t end = end_of(start, " \t\r\n\v\f\"'<>|`");
    const std::size_t query = std::min(text_.find('?', start), end);
    copy(start);
    skip_user(start, query);
    // A secret may stand in the path, too.
    out_ += Masker(text_.substr(at_, query - at_)).run();
    at_ = query;
    if (query < end) {
      out_ += '?';
      mask(end);
    }
    return true;
  }

  // The slashes in front of an authority of another scheme.
  bool authority() {
    if (at_ == 0 || (text_[at_ - 1] != ':' && !starts(at_, "//"))) return false;
    std::size_t start = at_;
    while (start < text_.size() && text_[start] == '/') ++start;
    copy(start);
    skip_user(start, end_of(start, " \t\r\n\v\f\"'<>|`?"));
    return true;
  }

  // Leaves out "user:password@" between `start` and `end`.
  void skip_user(std::size_t start, std::size_t end) {
    const std::string_view rest = text_.substr(start, end - start);
    const std::string_view host = rest.substr(0, rest.find('/'));
    if (const std::size_t at = host.rfind('@'); at != std::string_view::npos) {
      at_ = start + at + 1;
      return;
    }
    // A password may contain a slash: then text that looks like a port is not a port.
    const std::size_t colon =
        host.starts_with('[') ? host.find(':', host.find(']')) : host.find(':');
    if (colon == std::string_view::npos) return;
    const std::string_view port = host.substr(colon + 1);
    const bool number = port.size() <= 5 && std::all_of(port.begin(), port.end(), is_digit);
    if (const std::size_t at = rest.rfind('@'); !number && at != std::string_view::npos) {
      at_ = start + at + 1;
    }
  }

  const std::string_view text_;
  std::size_t at_ = 0;
  std::string out_;
};

bool is_control(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code <= 0x9F) || code == 0x061C || code == 0x200E ||
         code == 0x200F || code == 0x2028 || code == 0x2029 || (code >= 0x202A && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xFEFF;
}

}  // namespace

std::string mask_secrets(std::string_view text) { return Masker(text).run(); }

std::string escape_controls(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto [code, size] = first_character(text);
    if (size > 0 && !is_control(code)) {
      out += text.substr(0, size);
    } else if (size == 0) {
      out += text[0];  // of another encoding: shown as it is
    } else {
      char escape[16];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(code));
      out += escape;
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

std::string cut_text(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return std::string(text);
  std::size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + std::string(kMask);
}

std::string shown_text(std::string_view text) { return escape_controls(mask_secrets(text)); }

}  // namespace streamer
