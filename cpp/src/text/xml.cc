#include "text/xml.h"

#include <cstdint>

#include "base/text.h"

namespace streamer::http {
namespace {

constexpr int kMaxDepth = 32;
constexpr std::size_t kMaxElements = 1'000'000;  // each takes about 100 bytes

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<XmlElement> document() {
    XmlElement root;
    if (!skip_to_element() || !element(&root, 0)) return std::nullopt;
    return root;
  }

 private:
  bool skip_past(std::string_view mark) {
    const std::size_t found = text_.find(mark, position_);
    if (found == std::string_view::npos) return false;
    position_ = found + mark.size();
    return true;
  }

  // Past declarations and comments, to the '<' of an element.
  bool skip_to_element() {
    for (;;) {
      position_ = text_.find('<', position_);
      if (position_ == std::string_view::npos) return false;
      const std::string_view rest = text_.substr(position_);
      if (rest.starts_with("<?")) {
        if (!skip_past("?>")) return false;
      } else if (rest.starts_with("<!--")) {
        if (!skip_past("-->")) return false;
      } else if (rest.starts_with("<!")) {
        return false;  // a DTD
      } else {
        return true;
      }
    }
  }

  bool element(XmlElement* out, int depth) {
    if (depth > kMaxDepth || ++elements_ > kMaxElements) return false;
    ++position_;  // '<'
    const std::size_t name_end = text_.find_first_of(" \t\r\n/>", position_);
    if (name_end == std::string_view::npos || name_end == position_) return false;
    std::string_view name = text_.substr(position_, name_end - position_);
    const std::string_view whole_name = name;
    if (const std::size_t colon = name.rfind(':'); colon != std::string_view::npos) {
      name.remove_prefix(colon + 1);
    }
    out->name = name;
    position_ = name_end;
    char quote = 0;  // attributes are skipped; a '>' may stand inside their quotes
    for (; position_ < text_.size(); ++position_) {
      const char c = text_[position_];
      if (quote != 0) {
        if (c == quote) quote = 0;
      } else if (c == '"' || c == '\'') {
        quote = c;
      } else if (c == '>') {
        break;
      }
    }
    if (position_ >= text_.size()) return false;
    const bool empty = text_[position_ - 1] == '/';
    ++position_;
    return empty || content(out, whole_name, depth);
  }

  bool content(XmlElement* out, std::string_view name, int depth) {
    for (;;) {
      if (position_ >= text_.size()) return false;
      if (text_[position_] != '<') {
        const std::size_t end = std::min(text_.find('<', position_), text_.size());
        if (!text(text_.substr(position_, end - position_), &out->text)) return false;
        position_ = end;
        continue;
      }
      const std::string_view rest = text_.substr(position_);
      if (rest.starts_with("<!--")) {
        if (!skip_past("-->")) return false;
      } else if (rest.starts_with("<![CDATA[")) {
        const std::size_t start = position_ + 9;
        if (!skip_past("]]>")) return false;
        out->text += text_.substr(start, position_ - 3 - start);
      } else if (rest.starts_with("<?")) {
        if (!skip_past("?>")) return false;
      } else if (rest.starts_with("</")) {
        if (!rest.substr(2).starts_with(name)) return false;
        return skip_past(">");
      } else {
        out->children.emplace_back();
        if (!element(&out->children.back(), depth + 1)) return false;
      }
    }
  }

  static bool text(std::string_view raw, std::string* out) {
    while (!raw.empty()) {
      const std::size_t mark = raw.find('&');
      *out += raw.substr(0, mark);
      if (mark == std::string_view::npos) return true;
      const std::size_t end = raw.find(';', mark);
      if (end == std::string_view::npos) return false;
      if (!entity(raw.substr(mark + 1, end - mark - 1), out)) return false;
      raw.remove_prefix(end + 1);
    }
    return true;
  }

  static bool entity(std::string_view name, std::string* out) {
    if (name == "amp") {
      *out += '&';
    } else if (name == "lt") {
      *out += '<';
    } else if (name == "gt") {
      *out += '>';
    } else if (name == "quot") {
      *out += '"';
    } else if (name == "apos") {
      *out += '\'';
    } else if (name.starts_with('#')) {
      const bool sixteen = name.starts_with("#x");
      name.remove_prefix(sixteen ? 2 : 1);
      const auto code = parse_number(name, sixteen ? 16 : 10);
      if (!code || *code > 0x10FFFF) return false;
      append_utf8(static_cast<std::uint32_t>(*code), out);
    } else {
      return false;
    }
    return true;
  }

  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t elements_ = 0;
};

}  // namespace

const XmlElement* XmlElement::child(std::string_view child_name) const {
  for (const XmlElement& element : children) {
    if (element.name == child_name) return &element;
  }
  return nullptr;
}

std::string_view XmlElement::child_text(std::string_view child_name) const {
  const XmlElement* element = child(child_name);
  return element == nullptr ? std::string_view() : std::string_view(element->text);
}

std::optional<XmlElement> parse_xml(std::string_view document) {
  return Parser(document).document();
}

}  // namespace streamer::http
