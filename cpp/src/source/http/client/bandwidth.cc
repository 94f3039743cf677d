#include "source/http/client/bandwidth.h"

#include <algorithm>

#include "base/clock.h"
#include "base/mutex.h"

namespace streamer::http {
namespace {

using std::chrono::nanoseconds;

// The traffic that may pass at once after a quiet time.
constexpr nanoseconds kBurst = std::chrono::milliseconds(50);

Mutex g_mutex;
Clock::time_point g_paid_until
    GUARDED_BY(g_mutex);  // the time when all booked bytes may have passed

}  // namespace

nanoseconds book_bandwidth(std::uint64_t bytes, std::uint64_t limit) {
  const auto cost = nanoseconds(
      static_cast<nanoseconds::rep>(static_cast<double>(bytes) * 1e9 / static_cast<double>(limit)));
  const MutexLock lock(g_mutex);
  const Clock::time_point now = Clock::now();
  g_paid_until = std::max(g_paid_until, now - kBurst) + cost;
  return std::max(nanoseconds(0), std::chrono::duration_cast<nanoseconds>(g_paid_until - now));
}

}  // namespace streamer::http
