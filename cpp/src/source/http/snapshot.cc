#include "source/http/snapshot.h"

#include "base/shown_text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

constexpr int kRounded = 1;  // seconds: servers round Last-Modified down or up

}  // namespace

void Snapshot::opened(const std::string& path, const Version& version, const Response& response) {
  const auto now = parse_http_date(response.header("date"));
  const auto written = parse_http_date(response.header("last-modified"));
  const MutexLock lock(mutex_);
  if (began_ == 0 && now) began_ = *now;
  // A version that the path names is the same whenever it was written.
  if (version.by_id || !written || began_ == 0 || *written <= began_ + kRounded) return;
  ++later_.objects;
  if (later_.example.empty()) later_.example = path;
}

void Snapshot::unpinned(const std::string& path) {
  const MutexLock lock(mutex_);
  ++unpinned_.objects;
  if (unpinned_.example.empty()) unpinned_.example = path;
}

void Snapshot::describe(std::map<std::string, std::string>* notes) const {
  const MutexLock lock(mutex_);
  if (unpinned_.objects > 0) {
    (*notes)["versions"] = "the server sends neither ETag nor Last-Modified for " +
                           std::to_string(unpinned_.objects) + " of the objects, such as " +
                           shown_text(unpinned_.example) +
                           ": only samples of them are read again, so that a change while they are "
                           "read may stay unnoticed";
  }
  if (later_.objects > 0) {
    (*notes)["set"] = std::to_string(later_.objects) +
                      " of the objects were written after the load had begun, such as " +
                      shown_text(later_.example) + ": the set may be of two versions";
  }
}

}  // namespace streamer::http
