#include "source/http/auth/server_clock.h"

#include <cstdlib>
#include <map>

#include "base/mutex.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr std::time_t kTolerated = 60;  // seconds
constexpr std::time_t kMaxOffset = 24 * 3600;
constexpr std::size_t kMaxOrigins = 256;

struct Offsets {
  Mutex mutex;
  std::map<std::string, std::time_t> by_origin
      GUARDED_BY(mutex);  // seconds: the server's clock minus ours
};

Offsets& offsets() {
  static auto* const all = new Offsets;  // for threads that outlive static objects
  return *all;
}

std::string origin_of(const std::string& url) {
  return url.substr(0, url.find_first_of("/?#", after_scheme(url)));
}

}  // namespace

std::time_t server_time(const std::string& url) {
  Offsets& all = offsets();
  const MutexLock lock(all.mutex);
  const auto it = all.by_origin.find(origin_of(url));
  return std::time(nullptr) + (it == all.by_origin.end() ? 0 : it->second);
}

bool learn_server_time(const Response& response) {
  const auto theirs = parse_http_date(response.header("date"));
  if (!theirs || response.signed_at == 0) return false;
  // Not the present offset: other requests may have changed it meanwhile.
  if (std::abs(*theirs - response.signed_at) <= kTolerated) return false;
  const std::time_t offset = *theirs - std::time(nullptr);
  if (std::abs(offset) > kMaxOffset) return false;
  Offsets& all = offsets();
  const MutexLock lock(all.mutex);
  if (all.by_origin.size() >= kMaxOrigins) all.by_origin.clear();
  all.by_origin[origin_of(response.url)] = offset;
  return true;
}

}  // namespace streamer::http
