// Errors of files as statuses.
#pragma once

#include <string>

#include "streamer/status.h"

namespace streamer {

// The status of a system call on `path` that failed with `os_error`: text, code and hint.
Status file_error(const std::string& what, const std::string& path, int os_error);

// kUnsupported: a strategy that was asked for alone can't be used. `os_error` is 0 if the file
// system or the kernel has no such strategy.
Status strategy_error(const std::string& what, int os_error);

}  // namespace streamer
