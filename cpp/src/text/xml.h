// A reader for the small XML documents that object storages send. No DTDs, no namespaces
// (prefixes are dropped), no attributes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace streamer::http {

struct XmlElement {
  std::string name;
  std::string text;  // entities resolved; of an element with children: the text between them
  std::vector<XmlElement> children;

  const XmlElement* child(std::string_view child_name) const;      // the first, or null
  std::string_view child_text(std::string_view child_name) const;  // empty if there is none
};

// The root element; nothing if the document is malformed, is nested too deeply or has more than a
// million elements.
std::optional<XmlElement> parse_xml(std::string_view document);

}  // namespace streamer::http
