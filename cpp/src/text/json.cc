#include "text/json.h"

#include <charconv>

namespace streamer::http {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxValues = 1'000'000;  // each takes about 100 bytes

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Json> document() {
    Json value;
    if (!parse(&value, 0)) return std::nullopt;
    skip_space();
    if (position_ != text_.size()) return std::nullopt;
    return value;
  }

 private:
  void skip_space() {
    while (position_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[position_]) != std::string_view::npos) {
      ++position_;
    }
  }
  bool take(std::string_view word) {
    if (!text_.substr(position_).starts_with(word)) return false;
    position_ += word.size();
    return true;
  }
  bool take_mark(char mark) {
    skip_space();
    if (position_ >= text_.size() || text_[position_] != mark) return false;
    ++position_;
    return true;
  }

  bool parse(Json* out, int depth) {
    if (depth > kMaxDepth || ++values_ > kMaxValues) return false;
    skip_space();
    if (position_ >= text_.size()) return false;
    switch (text_[position_]) {
      case '{': return object(out, depth);
      case '[': return array(out, depth);
      case '"': out->type = Json::Type::kString; return string(&out->text);
      case 't':
        out->type = Json::Type::kBool;
        out->boolean = true;
        return take("true");
      case 'f': out->type = Json::Type::kBool; return take("false");
      case 'n': return take("null");
      default: return number(out);
    }
  }

  bool object(Json* out, int depth) {
    out->type = Json::Type::kObject;
    ++position_;
    if (take_mark('}')) return true;
    do {
      skip_space();
      out->keys.emplace_back();
      out->items.emplace_back();
      if (!string(&out->keys.back()) || !take_mark(':') || !parse(&out->items.back(), depth + 1)) {
        return false;
      }
    } while (take_mark(','));
    return take_mark('}');
  }

  bool array(Json* out, int depth) {
    out->type = Json::Type::kArray;
    ++position_;
    if (take_mark(']')) return true;
    do {
      out->items.emplace_back();
      if (!parse(&out->items.back(), depth + 1)) return false;
    } while (take_mark(','));
    return take_mark(']');
  }

  bool number(Json* out) {
    out->type = Json::Type::kNumber;
    const std::size_t end =
        std::min(text_.find_first_not_of("+-.0123456789eE", position_), text_.size());
    out->text = text_.substr(position_, end - position_);
    position_ = end;
    return !out->text.empty();
  }

  bool four_digits(std::uint32_t* code) {
    if (position_ + 4 > text_.size()) return false;
    const char* begin = text_.data() + position_;
    const auto [end, error] = std::from_chars(begin, begin + 4, *code, 16);
    position_ += 4;
    return error == std::errc() && end == begin + 4;
  }

  bool escape(std::string* out) {
    if (position_ >= text_.size()) return false;
    const char c = text_[position_++];
    switch (c) {
      case 'b': *out += '\b'; return true;
      case 'f': *out += '\f'; return true;
      case 'n': *out += '\n'; return true;
      case 'r': *out += '\r'; return true;
      case 't': *out += '\t'; return true;
      case '"':
      case '\\':
      case '/': *out += c; return true;
      case 'u': break;
      default: return false;
    }
    std::uint32_t code = 0;
    if (!four_digits(&code)) return false;
    if (code >= 0xD800 && code < 0xDC00) {
      std::uint32_t low = 0;
      if (!take("\\u") || !four_digits(&low) || low < 0xDC00 || low > 0xDFFF) return false;
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
      *out += static_cast<char>(code);
    } else {
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      constexpr unsigned kLead[] = {0, 0xC0, 0xE0, 0xF0};
      *out += static_cast<char>(kLead[more] | code >> (6 * more));
      for (int k = more - 1; k >= 0; --k) *out += static_cast<char>(0x80 | (code >> (6 * k) & 63));
    }
    return true;
  }

  bool string(std::string* out) {
    if (!take("\"")) return false;
    while (position_ < text_.size()) {
      const char c = text_[position_++];
      if (c == '"') return true;
      if (c != '\\') {
        *out += c;
      } else if (!escape(out)) {
        return false;
      }
    }
    return false;
  }

  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t values_ = 0;
};

const Json kNothing;

}  // namespace

const Json& Json::operator[](std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return items[i];
  }
  return kNothing;
}

std::string Json::string(std::string_view key) const { return (*this)[key].text; }

std::optional<std::int64_t> Json::integer(std::string_view key) const {
  const std::string& digits = (*this)[key].text;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || digits.empty() || end != digits.data() + digits.size()) {
    return std::nullopt;
  }
  return value;
}

std::optional<Json> parse_json(std::string_view document) { return Parser(document).document(); }

}  // namespace streamer::http
