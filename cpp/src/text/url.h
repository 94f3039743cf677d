// The parts of an absolute http or https URL.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "streamer/status.h"

namespace streamer::http {

struct Url {
  std::string scheme;  // http or https
  std::string host;    // lower case, IPv6 in brackets
  int port = 0;        // 0: the scheme's own
  std::string path;    // encoded, starts with '/' or is empty
  std::string query;   // encoded, without '?'

  // host, and the port if it is not the scheme's own: the value of Host.
  std::string authority() const;
  std::string origin() const { return scheme + "://" + authority(); }
  std::string to_string() const;
  bool host_is_ip() const;
  bool host_is_local() const;  // localhost or *.localhost
};

// The start of the text behind "SCHEME://"; 0 without a scheme.
inline std::size_t after_scheme(std::string_view text) {
  const std::size_t mark = text.find("://");
  return mark == std::string_view::npos ? 0 : mark + 3;
}

// kInvalid for anything else, user info included. A URL without a scheme gets `default_scheme`
// unless that is empty. Fragments are dropped.
Result<Url> parse_url(std::string_view text, std::string_view default_scheme = {});

// The URL of a service: origin and path, without '/' at its end.
Result<std::string> parse_endpoint(std::string_view text, std::string_view default_scheme = {});

// "name=value" pairs between separators, as they are written.
using Pairs = std::vector<std::pair<std::string_view, std::string_view>>;
Pairs split_pairs(std::string_view text, char separator);

}  // namespace streamer::http
