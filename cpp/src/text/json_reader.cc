#include "text/json_reader.h"

#include "base/shown_text.h"
#include "base/text.h"
#include "text/unique_names.h"

namespace streamer {
namespace {

constexpr std::size_t kShownName = 100;  // bytes of a name in an error

bool is_high_surrogate(std::uint32_t code) { return code >= 0xD800 && code < 0xDC00; }
bool is_low_surrogate(std::uint32_t code) { return code >= 0xDC00 && code < 0xE000; }

}  // namespace

bool JsonReader::fail(std::string what, std::size_t position) {
  if (error_.empty()) error_ = std::move(what) + " at byte " + std::to_string(position);
  return false;
}

bool JsonReader::fail_expected(char mark) {
  peek();
  return fail(position_ < document_.size() ? std::string("expected '") + mark + "'"
                                           : std::string("unexpected end"));
}

bool JsonReader::end() {
  peek();
  if (position_ == document_.size()) return true;
  return fail(document_[position_] == '\0'
                  ? "a NUL byte behind the value (white space may follow it)"
                  : "unexpected text behind the value");
}

bool JsonReader::raw(std::string_view* out) {
  peek();
  const std::size_t begin = position_;
  if (!skip()) return false;
  *out = document_.substr(begin, position_ - begin);
  return true;
}

bool JsonReader::escaped_string(std::size_t begin, std::size_t end, std::string_view* out) {
  decoded_.clear();
  for (;;) {
    decoded_.append(document_, begin, end - begin);
    position_ = end;
    if (position_ >= document_.size()) return fail("a string without an end");
    const char c = document_[position_];
    if (c == '"') break;
    if (c != '\\') return fail("a control character in a string");
    ++position_;
    if (!escape()) return false;
    begin = position_;
    end = plain_end(begin);
  }
  ++position_;
  *out = decoded_;
  return true;
}

bool JsonReader::four_digits(std::uint32_t* code) {
  constexpr std::size_t kDigits = 4;
  if (document_.size() - position_ < kDigits) return fail("unexpected end");
  const auto number = parse_number(document_.substr(position_, kDigits), 16);
  if (!number) return fail("an invalid escape");
  *code = static_cast<std::uint32_t>(*number);
  position_ += kDigits;
  return true;
}

// Behind a backslash.
bool JsonReader::escape() {
  if (position_ >= document_.size()) return fail("unexpected end");
  const char c = document_[position_++];
  switch (c) {
    case 'b': decoded_ += '\b'; return true;
    case 'f': decoded_ += '\f'; return true;
    case 'n': decoded_ += '\n'; return true;
    case 'r': decoded_ += '\r'; return true;
    case 't': decoded_ += '\t'; return true;
    case '"':
    case '\\':
    case '/': decoded_ += c; return true;
    case 'u': break;
    default: return fail("an invalid escape", position_ - 1);
  }
  std::uint32_t code = 0;
  if (!four_digits(&code)) return false;
  if (is_high_surrogate(code)) {
    std::uint32_t low = 0;
    if (!document_.substr(position_).starts_with("\\u")) return fail("a lone surrogate");
    position_ += 2;
    if (!four_digits(&low)) return false;
    if (!is_low_surrogate(low)) return fail("a lone surrogate");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  } else if (is_low_surrogate(code)) {
    return fail("a lone surrogate");
  }
  append_utf8(code, &decoded_);
  return true;
}

bool JsonReader::digits() {
  const std::size_t begin = position_;
  while (position_ < document_.size() && is_digit(document_[position_])) ++position_;
  return position_ > begin || fail("expected a digit");
}

bool JsonReader::number() {
  const auto next_is = [this](std::string_view any) {
    return position_ < document_.size() && any.find(document_[position_]) != std::string_view::npos;
  };
  if (next_is("-")) ++position_;
  if (next_is("0")) {
    ++position_;
  } else if (!digits()) {
    return false;
  }
  if (next_is(".")) {
    ++position_;
    if (!digits()) return false;
  }
  if (next_is("eE")) {
    ++position_;
    if (next_is("+-")) ++position_;
    if (!digits()) return false;
  }
  return true;
}

bool JsonReader::word(std::string_view word) {
  if (!document_.substr(position_).starts_with(word)) return fail("expected a value");
  position_ += word.size();
  return true;
}

bool JsonReader::skip(int depth) {
  if (depth > kMaxDepth) return fail("values are nested too deeply");
  std::string_view text;
  const char next = peek();
  switch (next) {
    case '{': return skip_object(depth);
    case '[': return array([&] { return skip(depth + 1); });
    case '"': return string(&text);
    case 't': return word("true");
    case 'f': return word("false");
    case 'n': return word("null");
    default: break;
  }
  if (position_ >= document_.size()) return fail("unexpected end");
  return next == '-' || is_digit(next) ? number() : fail("expected a value");
}

bool JsonReader::skip_object(int depth) {
  UniqueNames names;
  const bool read = object([&](std::string_view name) {
    if (in_document(name)) {
      names.add(name);
    } else {
      names.add_copy(name);
    }
    return skip(depth + 1);
  });
  if (!read) return false;
  const auto twice = names.duplicate();
  if (twice) error_ = "duplicate name '" + cut_text(*twice, kShownName) + "'";
  return !twice;
}

}  // namespace streamer
