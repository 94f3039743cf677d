#include "engine/straggler_detector.h"

#include <algorithm>
#include <array>

namespace streamer {
namespace {

constexpr std::chrono::milliseconds kBetweenChecks{10};
constexpr std::size_t kRecent = 16;
constexpr std::size_t kLeastRecent = 4;
constexpr double kSlack = 0.1;       // seconds; what takes less longer than usual does not matter
constexpr double kTimesTypical = 2;  // the rest of a straggler would take so many whole reads
constexpr int kFreshPatience = 2;    // times longer for a connection that still gets faster
constexpr int kMostAborts = 3;       // of the same bytes
constexpr std::uint64_t kFirstAborts = 4;
constexpr std::uint64_t kReadsForAnAbort = 16;

}  // namespace

void StragglerDetector::began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes,
                              int aborts, TimePoint now) {
  const Mark mark{now, 0};
  reads_.push_back({std::move(progress), bytes, aborts, now, mark, mark});
}

void StragglerDetector::ended(const ReadProgress* progress, TimePoint now) {
  const auto it = std::find_if(reads_.begin(), reads_.end(),
                               [&](const Read& read) { return read.progress.get() == progress; });
  if (it == reads_.end()) return;
  if (!progress->cut) {
    ++ended_;
    recent_.push_back({it->bytes, seconds_between(it->start, now)});
    if (recent_.size() > kRecent) recent_.pop_front();
  }
  reads_.erase(it);
}

bool StragglerDetector::typical_known() const { return recent_.size() >= kLeastRecent; }

// The median of recent reads that were not much smaller; 0: not known.
double StragglerDetector::typical_seconds(std::uint64_t bytes) const {
  std::array<double, kRecent> seconds;
  auto end = seconds.begin();
  for (const Ended& read : recent_) {
    if (read.bytes >= bytes / 2) *end++ = read.seconds;
  }
  const auto count = static_cast<std::size_t>(end - seconds.begin());
  if (count < kLeastRecent) return 0;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(seconds.begin(), middle, end);
  return *middle;
}

bool StragglerDetector::lags(Read* read, double typical, TimePoint now) {
  const std::uint64_t received = read->progress->received.load(std::memory_order_relaxed);
  if (seconds_between(read->newer.time, now) >= std::max(kSlack, typical / 2)) {
    read->older = read->newer;
    read->newer = {now, received};
  }
  const double long_time = kTimesTypical * typical + kSlack;
  const double patience = long_time * (read->progress->fresh ? kFreshPatience : 1);
  const double window = seconds_between(read->older.time, now);
  if (seconds_between(read->start, now) < patience || window < kSlack) return false;
  const double rate = static_cast<double>(received - read->older.received) / window;
  return static_cast<double>(read->bytes - received) > rate * long_time;
}

void StragglerDetector::check(TimePoint now) {
  if (reads_.empty() || now - checked_ < kBetweenChecks) return;
  checked_ = now;
  const bool may_abort = aborts_ < kFirstAborts + ended_ / kReadsForAnAbort;
  for (Read& read : reads_) {
    if (read.progress->cut) continue;
    const double typical = typical_seconds(read.bytes);
    if (typical == 0 || !lags(&read, typical, now)) continue;
    if (!may_abort || read.aborts >= kMostAborts || read.progress->pausing) continue;
    read.progress->cut = true;
    ++aborts_;
    return;
  }
}

}  // namespace streamer
