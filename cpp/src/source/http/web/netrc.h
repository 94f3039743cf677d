// Passwords of hosts in a .netrc file.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace streamer::http {

struct NetrcEntry {
  std::string login;
  std::string password;
};

// The entry of `host`, else the default entry, in the text of a .netrc file.
std::optional<NetrcEntry> find_in_netrc(std::string_view text, std::string_view host);

}  // namespace streamer::http
