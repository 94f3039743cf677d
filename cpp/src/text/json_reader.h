// Reads a JSON document (RFC 8259) value by value. Builds no tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace streamer {

// A position in a document. A function that reads moves it behind the value, and returns true if
// the document is well-formed so far; error() describes the first failure. Names that occur twice
// in an object are an error in skip(); elsewhere the caller decides. Does not check UTF-8: see
// has_non_ascii(). The document must outlive the reader. One thread at a time.
class JsonReader {
 public:
  static constexpr int kMaxDepth = 128;  // of values in values

  explicit JsonReader(std::string_view document) : document_(document) {}

  // The next character that is not white space; NUL at the end.
  char peek() {
    while (position_ < document_.size() && is_space(document_[position_])) ++position_;
    return position_ < document_.size() ? document_[position_] : '\0';
  }

  // Reads `mark` if it is next. A mark that is not next is no error.
  bool take(char mark) {
    if (position_ < document_.size() && document_[position_] != mark) peek();
    if (position_ >= document_.size() || document_[position_] != mark) return false;
    ++position_;
    return true;
  }

  bool expect(char mark) { return take(mark) || fail_expected(mark); }

  // A string without its escapes, in UTF-8. Valid until the next string is read.
  bool string(std::string_view* out) {
    if (!expect('"')) return false;
    const std::size_t begin = position_;
    const std::size_t end = plain_end(begin);
    if (end < document_.size() && document_[end] == '"') {
      *out = document_.substr(begin, end - begin);
      position_ = end + 1;
      return true;
    }
    return escaped_string(begin, end, out);
  }

  // A number of up to 19 digits and nothing else. False: the next value is not one, and nothing was
  // read; no error.
  bool small_number(std::uint64_t* out) {
    constexpr std::size_t kMaxDigits = 19;  // always below 2^64
    peek();
    std::size_t at = position_;
    std::uint64_t value = 0;
    while (at < document_.size() && is_digit(document_[at])) {
      value = value * 10 + static_cast<std::uint64_t>(document_[at++] - '0');
    }
    const std::size_t digits = at - position_;
    if (digits == 0 || digits > kMaxDigits || (digits > 1 && document_[position_] == '0')) {
      return false;
    }
    if (at < document_.size() && continues_number(document_[at])) return false;
    position_ = at;
    *out = value;
    return true;
  }

  // Any value, and its text as it is written.
  bool raw(std::string_view* out);
  // Any value.
  bool skip() { return skip(1); }
  // True if nothing but white space is left.
  bool end();

  // Calls `member(name)` for each member. It reads the value, and returns false to stop: then
  // object() returns false, without an error of its own.
  template <typename Member>
  bool object(Member member) {
    if (!expect('{')) return false;
    if (take('}')) return true;
    do {
      std::string_view name;
      if (!string(&name) || !expect(':') || !member(name)) return false;
    } while (take(','));
    return expect('}');
  }

  // Calls `item()` for each item, as object() does.
  template <typename Item>
  bool array(Item item) {
    if (!expect('[')) return false;
    if (take(']')) return true;
    do {
      if (!item()) return false;
    } while (take(','));
    return expect(']');
  }

  // True if `text`, which string() returned, is a part of the document.
  bool in_document(std::string_view text) const { return text.data() != decoded_.data(); }
  // True if a string so far has bytes that are not ASCII.
  bool has_non_ascii() const { return (bits_ & 0x80) != 0; }
  bool failed() const { return !error_.empty(); }
  const std::string& error() const { return error_; }  // "expected ':' at byte 12"

 private:
  static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool continues_number(char c) { return c == '.' || c == 'e' || c == 'E'; }

  // The first byte from `at` on that ends a string or is an escape or a control character.
  std::size_t plain_end(std::size_t at) {
    unsigned bits = 0;
    for (; at < document_.size(); ++at) {
      const auto byte = static_cast<unsigned char>(document_[at]);
      if (byte == '"' || byte == '\\' || byte < ' ') break;
      bits |= byte;
    }
    bits_ |= bits;
    return at;
  }

  bool escaped_string(std::size_t begin, std::size_t end, std::string_view* out);
  bool escape();
  bool four_digits(std::uint32_t* code);
  bool number();
  bool digits();
  bool word(std::string_view word);
  bool skip(int depth);
  bool skip_object(int depth);
  bool fail_expected(char mark);
  bool fail(std::string what, std::size_t position);
  bool fail(std::string what) { return fail(std::move(what), position_); }

  std::string_view document_;
  std::size_t position_ = 0;
  unsigned bits_ = 0;    // of all bytes of strings, or-ed
  std::string decoded_;  // the latest string with escapes
  std::string error_;
};

}  // namespace streamer
