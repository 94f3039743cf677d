// Shell patterns with the meaning of Python's fnmatch.fnmatchcase: * crosses '/', ? is one UTF-8
// character, [seq] and [!seq] are sets with ranges, nothing is escaped.
#pragma once

#include <string_view>

namespace streamer::c_api {

bool matches(std::string_view pattern, std::string_view text);

}  // namespace streamer::c_api
