#include "source/http/web/netrc.h"

#include "base/text.h"

namespace streamer::http {
namespace {

class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  // The next word, without quotes; nothing at the end.
  std::optional<std::string> next() {
    for (;;) {
      text_ = text_.substr(std::min(text_.find_first_not_of(" \t\r\n"), text_.size()));
      if (text_.empty()) return std::nullopt;
      if (text_.front() != '#') break;
      text_ = text_.substr(std::min(text_.find('\n'), text_.size()));
    }
    std::string word;
    const bool quoted = text_.front() == '"';
    std::size_t i = quoted ? 1 : 0;
    for (; i < text_.size(); ++i) {
      const char c = text_[i];
      if (quoted ? c == '"' : std::string_view(" \t\r\n").find(c) != std::string_view::npos) break;
      if (c == '\\' && i + 1 < text_.size()) ++i;
      word += text_[i];
    }
    text_.remove_prefix(std::min(i + (quoted ? 1 : 0), text_.size()));
    return word;
  }

  // A macro ends at an empty line.
  void skip_macro() { text_ = text_.substr(std::min(text_.find("\n\n"), text_.size())); }

 private:
  std::string_view text_;
};

}  // namespace

std::optional<NetrcEntry> find_in_netrc(std::string_view text, std::string_view host) {
  std::optional<NetrcEntry> standard;
  NetrcEntry ignored;
  NetrcEntry found;
  NetrcEntry* entry = &ignored;
  Words words(text);
  while (const auto word = words.next()) {
    if (*word == "machine") {
      if (entry == &found) return found;
      const auto name = words.next();
      entry = name && lower(*name) == lower(host) ? &found : &ignored;
    } else if (*word == "default") {
      if (entry == &found) return found;
      entry = &standard.emplace();
    } else if (*word == "login") {
      entry->login = words.next().value_or("");
    } else if (*word == "password") {
      entry->password = words.next().value_or("");
    } else if (*word == "account") {
      words.next();
    } else if (*word == "macdef") {
      words.skip_macro();
    }
  }
  if (entry == &found) return found;
  return standard;
}

}  // namespace streamer::http
