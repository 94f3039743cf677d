#include "engine/straggler_detector.h"

#include <algorithm>
#include <array>

#include "base/memory_units.h"

namespace streamer {
namespace {

constexpr std::chrono::milliseconds kBetweenChecks{10};
constexpr double kSlack = 0.1;       // seconds; smaller delays do not matter
constexpr double kSlackIdle = 0.05;  // the same if workers wait for this read
constexpr double kTimesTypical = 2;  // the rest of a straggler would take so many whole reads
// The larger allowance of a connection that still gets faster: a factor, and waits to connect.
constexpr int kFreshFactor = 2;
constexpr double kFreshWaits = 4;
constexpr int kMostAborts = 3;         // of the same bytes
constexpr int kMostDoublings = 10;     // of the allowance with bytes that were aborted before
constexpr double kTrickle = 1.0 / 20;  // of the usual rate
constexpr std::uint64_t kLeastWaste = 64 * kKiB;  // of an abort: the new connection
constexpr std::uint64_t kFirstWaste = 8 * kMiB;
constexpr double kWastedPart = 1.0 / 32;  // of the bytes that reads brought

template <std::size_t size>
double median(std::array<double, size>* values, std::size_t count) {
  const auto middle = values->begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(values->begin(), middle, values->begin() + static_cast<std::ptrdiff_t>(count));
  return *middle;
}

}  // namespace

void StragglerDetector::began(std::shared_ptr<ReadProgress> progress, std::uint64_t bytes,
                              int aborts, TimePoint now) {
  const Mark mark{now, 0};
  reads_.push_back({std::move(progress), bytes, aborts, now, mark, mark});
}

void StragglerDetector::ended(const ReadProgress* progress, double waited, TimePoint now) {
  const auto it = std::find_if(reads_.begin(), reads_.end(),
                               [&](const Read& read) { return read.progress.get() == progress; });
  if (it == reads_.end()) return;
  if (!progress->aborted && it->bytes > 0) {
    ended_bytes_ += it->bytes;
    const double seconds = std::max(seconds_between(it->start, now), 1e-6);
    waited = std::min(waited, 0.9 * seconds);
    recent_.push_back({waited, static_cast<double>(it->bytes) / (seconds - waited),
                       progress->fresh.load(std::memory_order_relaxed)});
    if (recent_.size() > kRecent) recent_.pop_front();
  }
  reads_.erase(it);
}

std::uint64_t StragglerDetector::bytes_in_flight() const {
  std::uint64_t bytes = 0;
  for (const Read& read : reads_) bytes += read.progress->received.load(std::memory_order_relaxed);
  return bytes;
}

// The medians of recent reads, of connections that are at full speed if there are enough of them.
StragglerDetector::Typical StragglerDetector::typical() const {
  std::array<double, kRecent> waits;
  std::array<double, kRecent> rates;
  const auto settled = static_cast<std::size_t>(
      std::count_if(recent_.begin(), recent_.end(), [](const Ended& read) { return !read.fresh; }));
  std::size_t count = 0;
  for (const Ended& read : recent_) {
    if (read.fresh && settled >= kLeastRecent) continue;
    waits[count] = read.waited;
    rates[count++] = read.rate;
  }
  return {median(&waits, count), median(&rates, count)};
}

void StragglerDetector::judge(Read* read, const Typical& typical, bool idle, TimePoint now) {
  ReadProgress& progress = *read->progress;
  const std::uint64_t received = progress.received.load(std::memory_order_relaxed);
  const double slack = idle ? kSlackIdle : kSlack;
  const double usual = typical.seconds(read->bytes);
  if (seconds_between(read->newer.time, now) >= std::max(slack, usual / 2)) {
    read->older = read->newer;
    read->newer = {now, received};
  }
  if (progress.pausing || received >= read->bytes) return;
  const bool fresh = progress.fresh.load(std::memory_order_relaxed);
  const double times = idle ? 1 : kTimesTypical;
  double allowance = times * usual + slack;
  if (fresh) allowance = kFreshFactor * allowance + kFreshWaits * typical.waited;
  // Bytes that are slow on every connection are not requested again and again.
  allowance *= 1 << std::clamp(read->aborts - 1, 0, kMostDoublings);
  const double window = seconds_between(read->older.time, now);
  if (seconds_between(read->start, now) < allowance || window < slack) return;
  const double rate = static_cast<double>(received - read->older.received) / window;
  const auto left = static_cast<double>(read->bytes - received);
  const double another = idle ? typical.seconds(read->bytes - received) : usual;
  if (left <= rate * (kTimesTypical * another + slack)) return;
  // Bytes on their way are lost, and the next connection begins slowly.
  const double waste = std::min(left, static_cast<double>(kLeastWaste) + rate * typical.waited);
  if (rate > kTrickle * typical.rate) {
    const double allowed =
        static_cast<double>(kFirstWaste) + kWastedPart * static_cast<double>(ended_bytes_);
    if (read->aborts >= kMostAborts || wasted_bytes_ + waste > allowed) return;
  }
  progress.aborted = true;
  wasted_bytes_ += waste;
  ++aborts_;
}

void StragglerDetector::check(bool idle, TimePoint now) {
  if (reads_.empty() || now - checked_ < kBetweenChecks) return;
  checked_ = now;
  if (recent_.size() < (idle ? 1 : kLeastRecent)) return;
  const Typical usual = typical();
  for (Read& read : reads_) {
    if (!read.progress->aborted) judge(&read, usual, idle, now);
  }
}

}  // namespace streamer
