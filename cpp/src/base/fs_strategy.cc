#include "base/fs_strategy.h"

#include <algorithm>

#include "base/text.h"

namespace streamer {
namespace {

// The strategy of one name; empty where it is unknown.
std::string resolve(std::string word) {
  for (const std::string_view call : {"io_uring_", "libaio_", "sync_"}) {
    if (!word.starts_with(call)) continue;
    word.erase(0, call.size());
    return word == "direct" || word == "buffered" ? word : "";
  }
  for (const char* known : {"auto", "mapped", "buffered", "direct"}) {
    if (word == known) return word;
  }
  return "";
}

}  // namespace

std::optional<FsStrategy> parse_fs_strategy(std::string_view text) {
  FsStrategy chosen{"", false};
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    const std::string name = resolve(lower(trim(text.substr(start, end - start))));
    if (name.empty()) return std::nullopt;
    if (chosen.name.empty()) chosen.name = name;
    if (name == "auto" || name == "buffered") chosen.fallback = true;
    start = end + 1;
  }
  return chosen;
}

}  // namespace streamer
