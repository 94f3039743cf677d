// The times of retries.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <string_view>

#include "base/clock.h"
#include "base/mutex.h"

namespace streamer::http {

// Milliseconds after which the first attempt at a small request is aborted. Most take less.
inline constexpr int kHurry = 3'000;

// Bytes of a range that show that its source works: about what a server sends before it waits for
// an acknowledgement.
inline constexpr std::uint64_t kArrival = 16 << 10;

// Exponential backoff with jitter: pause n lies between half and all of 100 ms * 2^(n-1), at most
// 5 s. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(int max_attempts) : max_attempts_(max_attempts) {}  // 0: no limit
  // After a failed attempt: true if another one is due, at most `limit` in all (0: as constructed).
  bool another(int limit = 0);
  // The pause before it. If the server asked for a time: no shorter than that, and up to half of it
  // longer, lest all clients come back at once.
  std::chrono::milliseconds pause(std::chrono::milliseconds retry_after);
  int failures() const { return failures_; }
  // The last attempt brought enough to be no failure.
  void forgive() { failures_ = doublings_ = 0; }
  // It brought something: the pauses grow anew.
  void shorten() { doublings_ = 0; }

 private:
  const int max_attempts_;
  int failures_ = 0;
  int doublings_ = 0;  // of the next pause, and 1
  std::minstd_rand random_{std::random_device{}()};
};

// The retries of all connections of a source together: the time to give up, and the rate at which
// they may follow one another. Thread-safe.
class RetryBudget {
 public:
  // `timeout`: the time for which requests are sent again while nothing arrives.
  explicit RetryBudget(std::chrono::seconds timeout) : timeout_(timeout) {}

  // A request of the source was served.
  void progress(Clock::time_point now = Clock::now());
  // kArrival bytes of a request came, whether or not it is served in the end.
  void arrived(Clock::time_point now = Clock::now());
  // The time until a request that has failed since `since` is to be given up, because neither it
  // nor any other brought anything for the timeout, or it alone has failed for ten times as long.
  std::chrono::milliseconds left(Clock::time_point since,
                                 Clock::time_point now = Clock::now()) const;
  // Takes a retry out of the budget, and returns the pause before it. A burst of retries is free,
  // and so is one for every request that is served; others follow at a fixed rate.
  std::chrono::milliseconds take(Clock::time_point now = Clock::now());

 private:
  const std::chrono::seconds timeout_;
  std::atomic<Clock::time_point> progressed_{Clock::time_point::min()};
  Mutex mutex_;
  std::optional<Clock::time_point> refilled_ GUARDED_BY(mutex_);
  double tokens_ GUARDED_BY(mutex_) = 0;
};

// The value of Retry-After: seconds or a date. 0 if it says nothing; at most a minute.
std::chrono::milliseconds parse_retry_after(std::string_view value);

}  // namespace streamer::http
