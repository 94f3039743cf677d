// The names of the ways to read files.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace streamer {

struct FsStrategy {
  std::string name;      // auto, mapped, buffered or direct
  bool fallback = true;  // the list goes on to one that reads any file
};

// `text`: names separated by commas, the preferred one first; also those that the original knows,
// which name the system call first (io_uring_direct, sync_buffered). Empty where one is unknown.
std::optional<FsStrategy> parse_fs_strategy(std::string_view text);

}  // namespace streamer
