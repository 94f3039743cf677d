// How many reads of one source may be under way at once.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/clock.h"
#include "base/system.h"
#include "source/source.h"

namespace streamer {

// Grows while that brings bytes faster, steps back when it does not, and tries a neighbouring
// number now and then. Numbers are judged by the bytes per second of an epoch: some completed reads
// that all ran under the same limit. Not thread-safe. Reads no clock and makes no system call.
class ConcurrencyController {
 public:
  using TimePoint = Clock::time_point;

  // `fixed` above 0 is obeyed exactly. Sources that are not remote keep their first number. No
  // more reads are tried while the `processors` of the machine are the bound.
  ConcurrencyController(int fixed, const SourceTraits& traits, int processors);

  // Starts with more if the storage is far away. Ignored once reads have ended, and if a number was
  // chosen.
  void start(const Distance& distance);
  int limit() const { return limit_; }
  int maximum() const { return maximum_; }
  // A read of `bytes` ended while `active` reads were under way, itself included. True: an epoch
  // begins or ends, once the caller has measured the times of the processors and passed them to
  // measured().
  [[nodiscard]] bool completed(std::uint64_t bytes, int active, const ReadReport& report,
                               TimePoint now);
  // `times` without idle times unless needs_idle_times().
  void measured(const ProcessorTimes& times, TimePoint now);
  bool needs_idle_times() const { return same_host_; }

 private:
  enum class Phase {
    kGrow,   // doubling, as long as it pays
    kHold,   // at base_limit_
    kProbe,  // beside base_limit_, to compare
  };
  enum class Measuring { kNothing, kBegin, kEnd };  // what waits for measured()
  void change_limit(int limit);
  void epoch_ended(double rate, bool busy);
  void settle(int limit, double rate);
  void start_probe(bool busy);
  void judge_probe(double rate);
  bool delicate() const;
  bool measure(Measuring what);
  void begin_epoch(TimePoint now, const ProcessorTimes& times);
  void look_at_queue(std::uint64_t bytes, const ReadReport& report);
  bool busy(double seconds, const ProcessorTimes& now) const;

  int limit_;
  const int initial_;
  const int maximum_;
  const bool adaptive_;
  const int processors_;
  bool started_ = false;
  bool same_host_ = false;
  bool far_ = false;

  // The first reads from a server on this machine.
  int first_reads_ = 0;
  std::uint64_t first_bytes_ = 0;
  double first_seconds_ = 0;
  double first_waited_ = 0;

  Phase phase_ = Phase::kGrow;
  int base_limit_ = 0;      // the best number so far
  double base_rate_ = 0;    // its bytes per second; 0: not known
  double last_rate_ = 0;    // of the last epoch, while growing
  int epochs_to_hold_ = 0;  // before the next probe
  int patience_ = 0;        // how long to hold after a probe that brought nothing
  bool probe_up_ = false;

  int warm_up_left_ = 0;     // reads that began under another limit
  int reads_ = 0;            // of the epoch
  int saturated_reads_ = 0;  // of them: the limit was what bounded
  std::uint64_t bytes_ = 0;
  TimePoint start_{};
  ProcessorTimes start_times_;
  Measuring measuring_ = Measuring::kNothing;
};

}  // namespace streamer
