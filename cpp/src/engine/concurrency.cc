#include "engine/concurrency.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace streamer {
namespace {

constexpr std::chrono::milliseconds kShortestEpoch{60};
// Connections for each second that passes before a response begins.
constexpr double kForEachSecond = 400;
constexpr int kMostAtStart = 64;
constexpr double kEachOfTarget = 50e6;  // bytes per second of a connection, until it is known
constexpr int kEnoughReads = 8;         // to see if the number is the bound
constexpr double kStillRising = 1.15;
// A new read has to bring so much of the average of the others.
constexpr double kWorthMore = 0.5;
constexpr double kWorthMoreLater = 0.2;  // the same for a small step up
constexpr double kLeastGrowth = 0.25;    // of the number, at a time
constexpr double kSpare = 1.2;           // reads differ
constexpr double kWorthFewer = 1.02;     // a small step down: noise alone would lead there
constexpr int kProbeReads = 3;           // a probe lasts so many times as long as other epochs
constexpr double kBusy = 0.5;            // of the processors; the kernel needs some of the rest
// Reads may wait at the same time. Then more of them are needed than their times suggest.
constexpr int kBeforeSecondThought = 2;  // epochs
constexpr double kShortOfBest = 0.95;
constexpr int kShortestHold = 6;  // epochs between probes
constexpr int kLongestHold = 32;
constexpr double kSmoothing = 0.3;

}  // namespace

ConcurrencyController::ConcurrencyController(int fixed, const SourceTraits& traits, int processors)
    : limit_(fixed > 0 ? fixed : traits.initial_concurrency),
      initial_(limit_),
      maximum_(fixed > 0 ? fixed : traits.max_concurrency),
      remote_(traits.remote),
      adaptive_(fixed <= 0 && traits.remote),
      processors_(processors),
      target_rate_(traits.target_rate),
      chunk_bytes_(traits.chunk_bytes),
      base_limit_(limit_),
      hold_epochs_(kShortestHold) {
  if (adaptive_ && target_rate_ > 0) {
    limit_ = base_limit_ =
        std::clamp(static_cast<int>(std::ceil(target_rate_ / kEachOfTarget)), 1, maximum_);
  }
}

void ConcurrencyController::start(const Proximity& proximity) {
  if (!adaptive_ || started_ || settled() || target_rate_ > 0) return;
  const double wanted = std::min<double>(kForEachSecond * proximity.latency, kMostAtStart);
  limit_ = base_limit_ =
      std::clamp(static_cast<int>(wanted), std::min(initial_, maximum_), maximum_);
}

// A refusal counts more than the rate, and more reads should not be tried soon.
void ConcurrencyController::refused() {
  if (!adaptive_ || warm_up_left_ > 0) return;
  hold_epochs_ = kLongestHold;
  best_rate_ = 0;
  settle(std::max(1, limit_ * 7 / 10), 0);
}

void ConcurrencyController::reads_grew() {
  hold_epochs_ = kShortestHold;
  epochs_to_hold_ = std::min(epochs_to_hold_, kShortestHold);
}

bool ConcurrencyController::measure(Measuring what) {
  measuring_ = what;
  return true;
}

void ConcurrencyController::change_limit(int limit) {
  limit = std::clamp(limit, 1, maximum_);
  // Those in flight, or the first reads of the new connections.
  warm_up_left_ = limit > limit_ ? std::max(limit - limit_, 1) : limit_;
  limit_ = limit;
  last_rate_ = best_here_ = 0;
  reads_ = 0;
  measuring_ = Measuring::kNothing;
}

int ConcurrencyController::reads_of_epoch() const {
  switch (phase_) {
    case Phase::kGrow:
      return counts_in_flight_ ? std::clamp(limit_ / 2, 2, kEnoughReads) : std::max(2, limit_ / 2);
    case Phase::kHold: return 2 * limit_;
    case Phase::kProbe: break;
  }
  return 2 * limit_ * kProbeReads;
}

bool ConcurrencyController::completed(std::uint64_t bytes, int active, const ReadReport& report,
                                      TimePoint now) {
  if (!adaptive_) return false;
  bytes_ += bytes;
  const bool first = !std::exchange(started_, true);
  if (first) return measure(Measuring::kBegin);  // starts the clock
  if (warm_up_left_ > 0) return --warm_up_left_ == 0 && measure(Measuring::kBegin);
  if (measuring_ != Measuring::kNothing) return false;
  ++reads_;
  if (active >= limit_) ++saturated_reads_;
  if (2 * bytes >= chunk_bytes_) {
    whole_bytes_ += static_cast<double>(bytes);
    whole_seconds_ += report.seconds;
  }
  const auto shortest = kShortestEpoch * (phase_ == Phase::kProbe ? kProbeReads : 1);
  return reads_ >= reads_of_epoch() && now - start_ >= shortest && measure(Measuring::kEnd);
}

void ConcurrencyController::measured(double used, std::uint64_t in_flight, TimePoint now) {
  const Measuring what = std::exchange(measuring_, Measuring::kNothing);
  if (what == Measuring::kNothing) return;
  const double seconds = seconds_between(start_, now);
  const double bytes = static_cast<double>(bytes_ + in_flight) - static_cast<double>(start_bytes_);
  const bool saturated = saturated_reads_ * 8 >= reads_ * 7;
  processors_busy_ = what == Measuring::kEnd && used - start_used_ > kBusy * seconds * processors_;
  start_ = now;
  start_used_ = used;
  start_bytes_ = bytes_ + in_flight;
  counts_in_flight_ = in_flight > 0;
  if (what == Measuring::kEnd) {
    const double rate = std::max(bytes, 0.0) / seconds;
    if (phase_ == Phase::kGrow) {
      best_rate_ = std::max(best_rate_, rate);
      best_here_ = std::max(best_here_, rate);
    }
    // If the consumer or memory bounded the load, the rate has no other meaning.
    if (saturated) epoch_ended(rate);
  }
  reads_ = saturated_reads_ = 0;
  whole_bytes_ = whole_seconds_ = 0;
}

void ConcurrencyController::settle(int limit, double rate) {
  base_limit_ = std::clamp(limit, 1, maximum_);
  base_rate_ = rate;
  phase_ = Phase::kHold;
  epochs_to_hold_ = hold_epochs_;
  if (limit_ != base_limit_) change_limit(base_limit_);
}

void ConcurrencyController::epoch_ended(double rate) {
  switch (phase_) {
    case Phase::kGrow: judge_growth(rate); return;
    case Phase::kHold: hold(rate); return;
    case Phase::kProbe: judge_probe(rate); return;
  }
}

void ConcurrencyController::judge_growth(double rate) {
  // New connections get faster at first. Judge only a rate that has stopped rising.
  const bool rising = rate > std::exchange(last_rate_, rate) * kStillRising;
  double growth = 1;
  if (base_rate_ > 0) {
    const double more = (rate - base_rate_) / base_rate_;
    const double gain = more * base_limit_ / (limit_ - base_limit_);
    if (gain < kWorthMore) {
      if (rising) return;
      enough_ = true;
      most_tried_ = limit_;
      if (best_here_ < base_rate_) {  // a queue that overflows, or a server that is worn out
        best_rate_ = 0;
        settle(base_limit_, base_rate_);
      } else {
        settle(enough_for(best_rate_), 0);
      }
      return;
    }
    growth = std::clamp(2 * gain - 1, kLeastGrowth, 1.0);
  } else if (rising) {
    return;
  }
  base_limit_ = limit_;
  base_rate_ = rate;
  each_ = rate_of_each(rate);
  if (limit_ == maximum_ || processors_busy_) {
    best_rate_ = 0;
    settle(limit_, rate);
  } else {
    change_limit(limit_ + std::max(1, static_cast<int>(growth * limit_)));
  }
}

// The bytes per second of one connection, waits included.
double ConcurrencyController::rate_of_each(double rate) const {
  return whole_seconds_ > 0 ? whole_bytes_ / whole_seconds_ : rate / limit_;
}

// The reads that bring `rate` if they do not wait for one another.
int ConcurrencyController::enough_for(double rate) const {
  return std::clamp(static_cast<int>(kSpare * rate / each_), 1, limit_);
}

void ConcurrencyController::hold(double rate) {
  base_rate_ = base_rate_ == 0 ? rate : base_rate_ + kSmoothing * (rate - base_rate_);
  --epochs_to_hold_;
  if (best_rate_ > 0 && epochs_to_hold_ <= hold_epochs_ - kBeforeSecondThought) {
    const double best = std::exchange(best_rate_, 0);
    const int wanted = static_cast<int>(base_limit_ * best / base_rate_);
    if (base_rate_ < kShortOfBest * best && wanted > base_limit_) {
      settle(std::min(wanted, most_tried_), 0);
      return;
    }
  }
  if (epochs_to_hold_ <= 0) start_probe();
}

ConcurrencyController::Bound ConcurrencyController::bound() const {
  if (processors_busy_) return Bound::kProcessors;
  if (adaptive_ && enough_) return Bound::kLink;
  return remote_ && limit_ == maximum_ ? Bound::kConnections : Bound::kUnknown;
}

void ConcurrencyController::start_probe() {
  if (maximum_ == 1 || (processors_busy_ && base_limit_ <= initial_)) {  // nothing to try
    epochs_to_hold_ = hold_epochs_;
    return;
  }
  probe_up_ = !probe_up_;
  if (base_limit_ == maximum_ || processors_busy_) probe_up_ = false;
  if (base_limit_ == 1) probe_up_ = true;
  const int step = std::max(1, base_limit_ / 4);
  phase_ = Phase::kProbe;
  change_limit(probe_up_ ? base_limit_ + step : base_limit_ - step);
}

void ConcurrencyController::judge_probe(double rate) {
  const double more = base_rate_ > 0 ? rate / base_rate_ : 1;
  const double step = static_cast<double>(limit_ - base_limit_) / base_limit_;
  if (more < (probe_up_ ? 1 + kWorthMoreLater * step : kWorthFewer)) {
    enough_ = enough_ || probe_up_;
    hold_epochs_ = std::min(2 * hold_epochs_, kLongestHold);
    settle(base_limit_, base_rate_);
    return;
  }
  hold_epochs_ = kShortestHold;
  if (probe_up_) {  // on in the same direction
    enough_ = false;
    phase_ = Phase::kGrow;
    each_ = base_rate_ / base_limit_;
    best_rate_ = rate;
    judge_growth(rate);
    return;
  }
  settle(limit_, rate);
  probe_up_ = true;  // start_probe() turns it: on in the same direction, soon
  epochs_to_hold_ = 1;
}

}  // namespace streamer
