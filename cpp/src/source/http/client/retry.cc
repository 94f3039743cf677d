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
constexpr milliseconds kLongest{5'000};
constexpr milliseconds kLongestAsked{60'000};
constexpr double kBurst = 100;       // retries
constexpr double kPerSecond = 10;    // retries, once the burst is used up
constexpr double kMostBehind = -50;  // so that no retry waits for longer than 5 s

}  // namespace

bool Backoff::another(int limit) {
  ++failures_;
  ++doublings_;
  if (limit > 0 && failures_ >= limit) return false;
  return max_attempts_ == 0 || failures_ < max_attempts_;
}

milliseconds Backoff::pause(milliseconds retry_after) {
  const int doublings = std::min(std::max(doublings_ - 1, 0), 16);
  const milliseconds longest = std::min(kLongest, kFirst * (1 << doublings));
  std::uniform_int_distribution<milliseconds::rep> spread(longest.count() / 2, longest.count());
  const milliseconds pause(spread(random_));
  if (retry_after <= milliseconds(0)) return pause;
  std::uniform_int_distribution<milliseconds::rep> later(0, retry_after.count() / 2);
  return std::max(pause, retry_after + milliseconds(later(random_)));
}

void RetryBudget::arrived(Clock::time_point now) {
  Clock::time_point last = progressed_.load(std::memory_order_relaxed);
  while (last < now && !progressed_.compare_exchange_weak(last, now, std::memory_order_relaxed)) {
  }
}

void RetryBudget::progress(Clock::time_point now) {
  arrived(now);
  const MutexLock lock(mutex_);
  tokens_ = std::min(tokens_ + 1, kBurst);
}

milliseconds RetryBudget::left(Clock::time_point since, Clock::time_point now) const {
  const Clock::time_point last = std::max(progressed_.load(std::memory_order_relaxed), since);
  const Clock::time_point end = std::min(last + timeout_, since + 10 * timeout_);
  return std::chrono::ceil<milliseconds>(end - now);
}

milliseconds RetryBudget::take(Clock::time_point now) {
  const MutexLock lock(mutex_);
  if (!refilled_) {
    tokens_ = kBurst;
  } else if (now > *refilled_) {
    const double seconds = std::chrono::duration<double>(now - *refilled_).count();
    tokens_ = std::min(tokens_ + seconds * kPerSecond, kBurst);
  }
  refilled_ = std::max(refilled_.value_or(now), now);
  tokens_ = std::max(tokens_ - 1, kMostBehind);
  if (tokens_ >= 0) return milliseconds(0);
  return milliseconds(static_cast<milliseconds::rep>(-tokens_ / kPerSecond * 1000));
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
