#include "source/http/protocol.h"

#include <algorithm>
#include <cstdlib>

namespace streamer::http {

ServerError error_by_status(int status) {
  ServerError error;
  switch (status) {
    case 401:
    case 403: error.code = Code::kPermission; break;
    case 404: error.code = Code::kNotFound; break;
    case 408: error.code = Code::kTimeout; break;
    case 412: error.code = Code::kChanged; break;
    case 416: error.code = Code::kShortRead; break;
    case 429:
    case 498:  // of OpenStack Swift
    case 503: error.code = Code::kThrottled; break;
    default: error.code = Code::kIo; break;
  }
  const bool transient = status >= 500 && status != 501 && status != 505;
  if (status == 408 || status == 429 || status == 498 || transient)
    error.decision = RetryDecision::kRetry;
  return error;
}

bool apply_known(std::span<const KnownError> table, ServerError* error) {
  for (const KnownError& known : table) {
    if (error->server_code != known.code) continue;
    error->code = known.meaning;
    error->message = known.message;
    error->hint = known.hint;
    // A status that is worth a retry stays so under any code.
    if (error->decision == RetryDecision::kFail) error->decision = known.decision;
    return true;
  }
  return false;
}

Result<Location> locate_in_container(const std::string& path, std::size_t start, bool directory,
                                     const char* example) {
  start = std::min(start, path.size());
  const std::size_t slash = std::min(path.find('/', start), path.size());
  Location location{
      path, path.substr(start, slash - start), path.substr(std::min(slash + 1, path.size())), {}};
  const bool nowhere = location.container.empty();
  if (nowhere || (location.key.empty() && !directory)) {
    return Status::error(Code::kInvalid,
                         nowhere ? "the path names no bucket" : "the path names no object")
        .with_path(path)
        .with_hint(std::string("Paths look like ") + example);
  }
  if (directory) {
    while (location.key.ends_with('/')) location.key.pop_back();
    if (!location.key.empty()) location.key += '/';
  }
  return location;
}

std::string quoted_etag(std::string_view etag) {
  if (etag.empty() || etag.ends_with('"')) return std::string(etag);
  return "\"" + std::string(etag) + "\"";
}

void add_listed(ListPage* page, std::string_view key, std::string_view size,
                std::string_view version) {
  if (key.empty() || key.ends_with('/')) return;  // the placeholder of a directory
  page->entries.push_back({std::string(key), std::strtoull(std::string(size).c_str(), nullptr, 10),
                           "", std::string(version)});
}

}  // namespace streamer::http
