// A reader for the JSON that metadata services and listings send.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace streamer::http {

struct Json {
  enum class Type { kNull, kBool, kNumber, kString, kArray, kObject };
  Type type = Type::kNull;
  bool boolean = false;
  std::string text;         // kString: the string, in UTF-8; kNumber: the number as it was written
  std::vector<Json> items;  // kArray; kObject: the values
  std::vector<std::string> keys;  // kObject

  // The member `key`; a null value if there is none.
  const Json& operator[](std::string_view key) const;
  std::string string(std::string_view key) const;  // the text of a string or number, or empty
  std::optional<std::int64_t> integer(
      std::string_view key) const;  // of a number or a string of one
};

// Nothing if the document is malformed, is nested too deeply or has more than a million values.
std::optional<Json> parse_json(std::string_view document);

}  // namespace streamer::http
