// Words as users, files and servers write them.
#pragma once

#include <string>
#include <string_view>

namespace streamer {

std::string lower(std::string_view text);      // ASCII, in any locale
std::string_view trim(std::string_view text);  // without the white space at both ends

}  // namespace streamer
