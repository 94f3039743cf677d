#include "text/json.h"

#include <charconv>

#include "text/json_reader.h"

namespace streamer::http {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxValues = 1'000'000;  // each takes about 100 bytes

class Parser {
 public:
  explicit Parser(std::string_view text) : reader_(text) {}

  std::optional<Json> document() {
    Json value;
    if (!parse(&value, 0) || !reader_.end()) return std::nullopt;
    return value;
  }

 private:
  bool parse(Json* out, int depth) {
    if (depth > kMaxDepth || ++values_ > kMaxValues) return false;
    switch (reader_.peek()) {
      case '{':
        out->type = Json::Type::kObject;
        return reader_.object([&](std::string_view name) {
          out->keys.emplace_back(name);
          return parse(&out->items.emplace_back(), depth + 1);
        });
      case '[':
        out->type = Json::Type::kArray;
        return reader_.array([&] { return parse(&out->items.emplace_back(), depth + 1); });
      case '"': out->type = Json::Type::kString; return text(out);
      case 't': out->boolean = true; [[fallthrough]];
      case 'f': out->type = Json::Type::kBool; return reader_.skip();
      case 'n': return reader_.skip();
      default: return number(out);
    }
  }

  bool text(Json* out) {
    std::string_view text;
    if (!reader_.string(&text)) return false;
    out->text = text;
    return true;
  }

  bool number(Json* out) {
    out->type = Json::Type::kNumber;
    std::string_view text;
    if (!reader_.raw(&text)) return false;
    out->text = text;
    return true;
  }

  JsonReader reader_;
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
