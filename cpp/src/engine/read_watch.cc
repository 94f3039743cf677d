#include "engine/read_watch.h"

#include <algorithm>

namespace streamer {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{10};
constexpr std::size_t kRecent = 16;
constexpr std::size_t kLeastRecent = 4;
constexpr double kSlack = 0.1;     // seconds beyond which a read that takes long matters
constexpr double kTimesUsual = 2;  // what is left would take so many times a whole read
constexpr int kFreshPatience = 2;  // times longer for a connection that still gets faster
constexpr int kMostCuts = 3;       // of the same bytes
constexpr std::uint64_t kFirstCuts = 4;
constexpr std::uint64_t kReadsForACut = 16;

}  // namespace

void ReadWatch::began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes, int cuts,
                      TimePoint now) {
  const Mark mark{now, 0};
  reads_.push_back({std::move(progress), bytes, cuts, now, mark, mark});
}

void ReadWatch::ended(const ReadProgress* progress, TimePoint now) {
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

bool ReadWatch::usual_known() const { return recent_.size() >= kLeastRecent; }

// The median of recent reads that were not much smaller; 0: not known.
double ReadWatch::usual_seconds(std::uint64_t bytes) const {
  std::vector<double> seconds;
  for (const Ended& read : recent_) {
    if (read.bytes >= bytes / 2) seconds.push_back(read.seconds);
  }
  if (seconds.size() < kLeastRecent) return 0;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

bool ReadWatch::lags(Read* read, double usual, TimePoint now) {
  const std::uint64_t received = read->progress->received.load(std::memory_order_relaxed);
  if (seconds_between(read->newer.time, now) >= std::max(kSlack, usual / 2)) {
    read->older = read->newer;
    read->newer = {now, received};
  }
  const double long_time = kTimesUsual * usual + kSlack;
  const double patience = long_time * (read->progress->fresh ? kFreshPatience : 1);
  const double window = seconds_between(read->older.time, now);
  if (seconds_between(read->start, now) < patience || window < kSlack) return false;
  const double rate = static_cast<double>(received - read->older.received) / window;
  return static_cast<double>(read->bytes - received) > rate * long_time;
}

void ReadWatch::look(TimePoint now) {
  if (reads_.empty() || now - looked_ < kBetweenLooks) return;
  looked_ = now;
  const bool may_cut = cuts_ < kFirstCuts + ended_ / kReadsForACut;
  for (Read& read : reads_) {
    if (read.progress->cut) continue;
    const double usual = usual_seconds(read.bytes);
    if (usual == 0 || !lags(&read, usual, now)) continue;
    if (!may_cut || read.cuts >= kMostCuts || read.progress->pausing) continue;
    read.progress->cut = true;
    ++cuts_;
    return;
  }
}

}  // namespace streamer
