// The waits of a load, by their reason.
#pragma once

#include "base/clock.h"

namespace streamer {

// A state without a clock: the caller passes the time.
class WaitTimes {
 public:
  using TimePoint = Clock::time_point;
  enum class Pause {
    kNone,
    kConsumer,  // bytes that are ready fill the memory
    kMemory,    // bytes in flight fill the memory
  };

  double storage() const { return storage_; }    // seconds that the consumer waited for bytes
  double consumer() const { return consumer_; }  // that reading paused
  double memory() const { return memory_; }

  void reading(Pause pause, TimePoint now) {
    if (pause == pause_) return;
    const double seconds = seconds_between(paused_, now);
    if (pause_ == Pause::kConsumer) consumer_ += seconds;
    if (pause_ == Pause::kMemory) memory_ += seconds;
    pause_ = pause;
    paused_ = now;
  }

  void consumer_waits(TimePoint now) {
    if (!waiting_) waiting_since_ = now;
    waiting_ = true;
  }
  void consumer_goes_on(TimePoint now) {
    if (waiting_) storage_ += seconds_between(waiting_since_, now);
    waiting_ = false;
  }

 private:
  double storage_ = 0;
  double consumer_ = 0;
  double memory_ = 0;
  Pause pause_ = Pause::kNone;
  TimePoint paused_{};
  bool waiting_ = false;
  TimePoint waiting_since_{};
};

}  // namespace streamer
