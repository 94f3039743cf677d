#include "engine/concurrency.h"

#include <algorithm>
#include <utility>

namespace streamer {
namespace {

constexpr std::chrono::milliseconds kShortestEpoch{60};
constexpr double kFar = 0.005;       // seconds
constexpr double kFastEach = 100e6;  // bytes per second of one connection
constexpr double kStillRising = 1.15;
constexpr double kWorthDoubling = 1.4;  // a doubled number must bring this much to be doubled again
constexpr double kWorthKeeping = 1.04;  // and this much to be kept
constexpr double kWorthStep = 1.04;     // the same for a small step up
constexpr double kWorthFewer = 1.02;    // a small step down: noise alone would lead there
constexpr int kProbeReads = 3;          // a probe lasts so many times as long as other epochs
constexpr double kBusy = 0.5;           // of the processors; the kernel needs some of the rest
constexpr double kIdle = 0.1;           // of the processors, where they are the server's, too
constexpr int kShortestHold = 6;        // epochs between probes
constexpr int kLongestHold = 32;
constexpr double kSmoothing = 0.3;

}  // namespace

ConcurrencyController::ConcurrencyController(int fixed, const SourceTraits& traits, int processors)
    : limit_(fixed > 0 ? fixed : traits.initial_concurrency),
      initial_(limit_),
      maximum_(fixed > 0 ? fixed : traits.max_concurrency),
      adaptive_(fixed <= 0 && traits.remote),
      processors_(processors),
      base_limit_(limit_),
      patience_(kShortestHold) {}

void ConcurrencyController::start(const Distance& distance) {
  if (!adaptive_ || started_) return;
  same_host_ = distance.same_host;
  far_ = !same_host_ && (far_ || distance.latency >= kFar);
  limit_ = base_limit_ = std::clamp(far_ ? 2 * initial_ : initial_, 1, maximum_);
}

// There is no way to fill to a server on this machine: requests that wait for it for a good part of
// their time wait for one another. One for each processor, and one that waits, are enough.
void ConcurrencyController::look_at_queue(std::uint64_t bytes, const ReadReport& report) {
  if (!same_host_ || first_reads_ == initial_) return;
  first_bytes_ += bytes;
  first_seconds_ += report.seconds;
  first_waited_ += report.waited;
  if (++first_reads_ < initial_) return;
  const bool fast = static_cast<double>(first_bytes_) > kFastEach * first_seconds_;
  if (fast && first_waited_ > first_seconds_ / 3) {
    settle(std::min(limit_, processors_ + 1), 0);
  }
}

bool ConcurrencyController::measure(Measuring what) {
  measuring_ = what;
  return true;
}

void ConcurrencyController::begin_epoch(TimePoint now, const ProcessorTimes& times) {
  start_ = now;
  start_times_ = times;
}

bool ConcurrencyController::busy(double seconds, const ProcessorTimes& now) const {
  const double all = seconds * processors_;
  return now.used - start_times_.used > kBusy * all ||
         (same_host_ && now.idle > 0 && now.idle - start_times_.idle < kIdle * all);
}

void ConcurrencyController::change_limit(int limit) {
  warm_up_left_ = limit_;  // those under way
  limit_ = std::clamp(limit, 1, maximum_);
  reads_ = 0;
  measuring_ = Measuring::kNothing;
}

bool ConcurrencyController::completed(std::uint64_t bytes, int active, const ReadReport& report,
                                      TimePoint now) {
  if (!adaptive_) return false;
  started_ = true;
  look_at_queue(bytes, report);
  if (report.congested && warm_up_left_ == 0) {
    // The server's word counts more than the rate; and it should not be asked again soon.
    patience_ = kLongestHold;
    settle(std::max(1, limit_ * 7 / 10), 0);
    return false;
  }
  if (warm_up_left_ > 0) return --warm_up_left_ == 0 && measure(Measuring::kBegin);
  if (measuring_ == Measuring::kBegin) return false;
  if (reads_ == 0) {
    bytes_ = 0;
    saturated_reads_ = 0;
    if (start_ == TimePoint{}) {
      reads_ = 1;  // the very first read only starts the clock
      return measure(Measuring::kBegin);
    }
  }
  ++reads_;
  bytes_ += bytes;
  if (active >= limit_) ++saturated_reads_;
  const int length = phase_ == Phase::kProbe ? kProbeReads : 1;
  if (reads_ < 2 * limit_ * length || now - start_ < kShortestEpoch * length) return false;
  return measuring_ == Measuring::kNothing && measure(Measuring::kEnd);
}

void ConcurrencyController::measured(const ProcessorTimes& times, TimePoint now) {
  const Measuring what = std::exchange(measuring_, Measuring::kNothing);
  if (what == Measuring::kBegin) begin_epoch(now, times);
  if (what != Measuring::kEnd) return;
  const double seconds = seconds_between(start_, now);
  const bool saturated = saturated_reads_ * 8 >= reads_ * 7;
  const bool processors_busy = busy(seconds, times);
  reads_ = 0;
  begin_epoch(now, times);
  // If something else bounded the load (the consumer, memory), the rate says nothing.
  if (saturated) epoch_ended(static_cast<double>(bytes_) / seconds, processors_busy);
}

void ConcurrencyController::settle(int limit, double rate) {
  base_limit_ = std::clamp(limit, 1, maximum_);
  base_rate_ = rate;
  phase_ = Phase::kHold;
  epochs_to_hold_ = patience_;
  change_limit(base_limit_);
}

void ConcurrencyController::epoch_ended(double rate, bool busy) {
  switch (phase_) {
    case Phase::kGrow:
      // New connections get faster by themselves at first: only what has stopped to rise is a rate
      // that another number can be compared with.
      if (rate > last_rate_ * kStillRising) {
        last_rate_ = rate;
        return;
      }
      if (base_rate_ > 0 && rate < base_rate_ * kWorthDoubling) {
        const bool keep = rate >= base_rate_ * kWorthKeeping;
        settle(keep ? limit_ : base_limit_, keep ? rate : base_rate_);
        return;
      }
      base_limit_ = limit_;
      base_rate_ = last_rate_ = rate;
      if (delicate()) patience_ = kLongestHold;
      if (limit_ == maximum_ || busy || delicate()) {
        settle(limit_, rate);
      } else {
        change_limit(2 * limit_);
      }
      return;
    case Phase::kHold:
      base_rate_ = base_rate_ == 0 ? rate : base_rate_ + kSmoothing * (rate - base_rate_);
      if (--epochs_to_hold_ <= 0) start_probe(busy);
      return;
    case Phase::kProbe: judge_probe(rate); return;
  }
}

// Where fast connections share a long link, it is more often the bound than they are, and new ones
// overflow its queues: what is lost there costs more than a try is worth.
bool ConcurrencyController::delicate() const {
  return far_ && base_rate_ > kFastEach * base_limit_;
}

void ConcurrencyController::start_probe(bool busy) {
  if (busy && base_limit_ <= initial_) {  // nothing to try
    epochs_to_hold_ = patience_;
    return;
  }
  probe_up_ = !probe_up_;
  if (base_limit_ == maximum_ || busy) probe_up_ = false;
  if (base_limit_ == 1) probe_up_ = true;
  if (maximum_ == 1) return;
  const int step = delicate() ? 1 : std::max(1, base_limit_ / 4);
  phase_ = Phase::kProbe;
  change_limit(probe_up_ ? base_limit_ + step : base_limit_ - step);
}

void ConcurrencyController::judge_probe(double rate) {
  const bool better = rate >= base_rate_ * (probe_up_ ? kWorthStep : kWorthFewer);
  if (!better) {
    patience_ = std::min(2 * patience_, kLongestHold);
    settle(base_limit_, base_rate_);
    return;
  }
  patience_ = kShortestHold;
  const bool direction = probe_up_;
  settle(limit_, rate);
  probe_up_ = !direction;  // start_probe() turns it: on in the same direction, soon
  epochs_to_hold_ = 1;
}

}  // namespace streamer
