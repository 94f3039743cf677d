// When to try again.
#pragma once

#include <chrono>
#include <random>
#include <string_view>

namespace streamer::http {

// Exponential backoff with jitter: pause n lies between half and all of 100 ms * 2^(n-1), at most
// 20 s. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(int max_attempts) : max_attempts_(max_attempts) {}
  // After a failed attempt: whether another one is due, at most `limit` in all (0: as constructed).
  bool another(int limit = 0);
  // How long to wait before it, no shorter than what the server asked for.
  std::chrono::milliseconds pause(std::chrono::milliseconds retry_after);
  int failures() const { return failures_; }
  // The last attempt brought enough to be no failure.
  void forgive() { failures_ = 0; }

 private:
  const int max_attempts_;
  int failures_ = 0;
  std::minstd_rand random_{std::random_device{}()};
};

// The value of Retry-After: seconds or a date. 0 where it says nothing; at most a minute.
std::chrono::milliseconds parse_retry_after(std::string_view value);

}  // namespace streamer::http
