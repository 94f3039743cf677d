// The names of the strategies for files.
#include <algorithm>
#include <iterator>
#include <optional>
#include <string>

#include "base/text.h"
#include "streamer/types.h"

namespace streamer {
namespace {

constexpr const char* kNames[] = {"auto", "mapped", "buffered", "direct"};

std::optional<FsStrategy> find(std::string_view name) {
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return std::nullopt;
  return static_cast<FsStrategy>(found - std::begin(kNames));
}

// The strategy of one word of a list.
std::optional<FsStrategy> resolve(std::string_view word) {
  for (const std::string_view call : {"io_uring_", "libaio_", "sync_"}) {
    if (!word.starts_with(call)) continue;
    const auto strategy = find(word.substr(call.size()));
    const bool known = strategy == FsStrategy::kDirect || strategy == FsStrategy::kBuffered;
    return known ? strategy : std::nullopt;
  }
  return find(word);
}

}  // namespace

const char* fs_strategy_name(FsStrategy strategy) noexcept {
  return kNames[static_cast<int>(strategy)];
}

Result<FsPreference> parse_fs_strategy(std::string_view text) {
  std::optional<FsStrategy> first;
  bool only = true;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    const auto strategy = resolve(lower(trim(text.substr(start, end - start))));
    if (!strategy) {
      return Status::error(Code::kInvalid, "fs_strategy '" + std::string(text) +
                                               "' is not auto, mapped, buffered or direct");
    }
    if (!first) first = strategy;
    if (*strategy == FsStrategy::kAuto || *strategy == FsStrategy::kBuffered) only = false;
    start = end + 1;
  }
  return FsPreference{*first, only};
}

}  // namespace streamer
