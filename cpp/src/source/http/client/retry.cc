#include "source/http/client/retry.h"

#include <algorithm>
#include <charconv>
#include <ctime>

#include "base/text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kFirst{100};
constexpr milliseconds kLongest{20'000};
constexpr milliseconds kLongestAsked{60'000};

}  // namespace

bool Backoff::another(int limit) {
  ++failures_;
  return failures_ < (limit > 0 ? std::min(limit, max_attempts_) : max_attempts_);
}

milliseconds Backoff::pause(milliseconds retry_after) {
  const int doublings = std::min(std::max(failures_ - 1, 0), 16);
  const milliseconds longest = std::min(kLongest, kFirst * (1 << doublings));
  std::uniform_int_distribution<milliseconds::rep> spread(longest.count() / 2, longest.count());
  return std::max(milliseconds(spread(random_)), retry_after);
}

milliseconds parse_retry_after(std::string_view value) {
  value = trim(value);
  long seconds = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  if (error != std::errc() || end == value.data()) {
    const auto date = parse_http_date(value);
    if (!date) return milliseconds(0);
    seconds = static_cast<long>(*date - std::time(nullptr));
  }
  return std::clamp(milliseconds(std::clamp(seconds, 0l, 3600l) * 1000), milliseconds(0),
                    kLongestAsked);
}

}  // namespace streamer::http
