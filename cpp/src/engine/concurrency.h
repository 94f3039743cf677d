// The number of reads of one source that may be in flight at once.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/clock.h"
#include "source/source.h"

namespace streamer {

// Bytes in flight follow rate times latency, as measured: the number grows for as long as each new
// read brings a good part of the average of the others. Then it becomes the number that the rate
// needs if reads do not wait for one another. Later it tries a neighbouring number now and then.
//
// Rates are bytes per second of an epoch, which begins when the reads of the last number have
// ended. Not thread-safe. Reads no clock and makes no system call.
class ConcurrencyController {
 public:
  using TimePoint = Clock::time_point;

  // `fixed` above 0 is obeyed exactly. Sources that are not remote keep their first number. No
  // more reads are tried while the `processors` of the machine are the bound.
  ConcurrencyController(int fixed, const SourceTraits& traits, int processors);

  // Starts with more if responses begin late. Ignored once reads have ended or the server has
  // refused one, and if a number was chosen.
  void start(const Proximity& proximity);
  // The server refused a request because of its rate. Counts once for all reads that were in flight
  // together.
  void refused();
  // Reads request more bytes from now on, so that the same bytes take fewer requests. Another
  // number of reads is tried soon, also after a refusal.
  void reads_grew();
  int limit() const { return limit_; }
  int maximum() const { return maximum_; }
  // True if the number is steady, and the bytes per second of this number; 0: unknown.
  bool settled() const { return phase_ != Phase::kGrow; }
  double rate() const { return base_rate_; }
  // What bounds the rate, if reads do.
  enum class Bound {
    kUnknown,
    kLink,         // more reads bring no more
    kConnections,  // no more reads are allowed
    kProcessors,
  };
  Bound bound() const;

  // A read of `bytes` ended while `active` reads were in flight, itself included. True: an epoch
  // begins or ends, once the caller has passed its measurement to measured().
  [[nodiscard]] bool completed(std::uint64_t bytes, int active, const ReadReport& report,
                               TimePoint now);
  // `used`: seconds of processors by all threads of the process. `in_flight`: bytes that reads
  // which have not ended have received, as far as that is known.
  void measured(double used, std::uint64_t in_flight, TimePoint now);

 private:
  enum class Phase {
    kGrow,   // as long as it pays
    kHold,   // at base_limit_
    kProbe,  // beside base_limit_, to compare
  };
  enum class Measuring { kNothing, kBegin, kEnd };  // the step that waits for measured()
  void change_limit(int limit);
  void epoch_ended(double rate);
  void judge_growth(double rate);
  void hold(double rate);
  int enough_for(double rate) const;
  void settle(int limit, double rate);
  void start_probe();
  void judge_probe(double rate);
  bool measure(Measuring what);
  int reads_of_epoch() const;
  double rate_of_each(double rate) const;

  int limit_;
  const int initial_;
  const int maximum_;
  const bool remote_;
  const bool adaptive_;
  const int processors_;
  const double target_rate_;
  const std::uint64_t chunk_bytes_;
  bool started_ = false;
  bool enough_ = false;
  bool processors_busy_ = false;
  bool counts_in_flight_ = false;  // measurements count the bytes of reads in flight

  Phase phase_ = Phase::kGrow;
  int base_limit_ = 0;      // the best number so far
  double base_rate_ = 0;    // its bytes per second; 0: not known
  double last_rate_ = 0;    // of the last epoch with this number
  double best_here_ = 0;    // of all epochs with this number, while growing
  double each_ = 0;         // bytes per second of one read of the best number
  double best_rate_ = 0;    // of all numbers while it grew; 0: it was compared with the present one
  int most_tried_ = 0;      // the number with which growing ended
  int epochs_to_hold_ = 0;  // before the next probe
  int hold_epochs_ = 0;     // to hold after a probe that brought nothing
  bool probe_up_ = false;

  std::uint64_t bytes_ = 0;  // of all reads that ended
  int warm_up_left_ = 0;     // reads that began under another number
  int reads_ = 0;            // of the epoch
  int saturated_reads_ = 0;  // of them: the number was the bound
  // Sums over the epoch's reads that were not small.
  double whole_bytes_ = 0;
  double whole_seconds_ = 0;
  Measuring measuring_ = Measuring::kNothing;
  TimePoint start_{};  // of the epoch
  double start_used_ = 0;
  std::uint64_t start_bytes_ = 0;
};

}  // namespace streamer
