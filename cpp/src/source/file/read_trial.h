// The best way to read a shared file system.
#pragma once

#include <cstdint>
#include <string>

#include "base/mutex.h"

namespace streamer {

// The first reads try the ways that a file system may prefer: one read at a time, in order (mounts
// of object storage fetch ahead of reads in order, and pay for each jump); several at once; and
// several past the page cache (O_DIRECT), which some network file systems serve in larger requests.
// The number of reads doubles for as long as that brings bytes faster. The most that can be through
// the page cache then ask for all of their bytes at once. At last, the best of these is compared
// with reading in order. If it seems somewhat faster, both are measured once more, and the better
// result in order has to be passed by the worse one of the other: jumps cost more than the loss
// without them.
//
// A setting is judged by the time that its first reads take, the slowest of them too: bytes per
// second = reads in flight x bytes of one / seconds of one. So a consumer that pauses does not
// count. Thread-safe; reads no clock.
class ReadTrial {
 public:
  static constexpr int kMostReads = 128;

  struct Setting {
    bool direct = false;
    int reads = 1;       // in flight at once
    bool whole = false;  // each asks for all of its bytes first: many requests in flight at once
    bool operator==(const Setting&) const = default;
  };
  // A read that began.
  struct Read {
    Setting setting;
    int step = 0;
    int active = 0;
    bool counts = false;  // it is one of those that the step is judged by
  };

  // `fixed` above 0: so many reads, chosen by the user. Then only O_DIRECT is tried.
  explicit ReadTrial(int fixed);

  // The setting for the next read.
  Setting setting() const EXCLUDES(mutex_);
  // The amount to read at once.
  struct Amount {
    int reads;
    // Reads should be small: while one and two are tried, a jump costs less then. When more jump at
    // once, larger ones pay for it.
    bool small;
  };
  Amount amount() const EXCLUDES(mutex_);
  Read begin() EXCLUDES(mutex_);
  // The read took so many seconds; 0 bytes: it failed, and does not count.
  void ended(const Read& read, std::uint64_t bytes, double seconds) EXCLUDES(mutex_);
  // The file system has no O_DIRECT.
  void refuse_direct() EXCLUDES(mutex_);

  // True if the best setting is found.
  bool decided() const EXCLUDES(mutex_);
  // The setting, for people.
  std::string describe() const EXCLUDES(mutex_);

 private:
  enum class Phase {
    kWarmUp,
    kInOrder,
    kDirect,
    kParallel,
    kGrow,
    kInOrderAgain,
    kBestAgain,
    kDecided
  };
  void enter_locked(Phase phase, Setting setting) REQUIRES(mutex_);
  void judge_locked(double rate) REQUIRES(mutex_);
  void compare_locked() REQUIRES(mutex_);
  void grow_locked() REQUIRES(mutex_);
  void decide_locked() REQUIRES(mutex_);
  int wanted_reads_locked() const REQUIRES(mutex_);
  double rate_locked() const REQUIRES(mutex_);
  bool hopeless_locked() const REQUIRES(mutex_);
  bool harmless_locked() const REQUIRES(mutex_);

  const int fixed_;
  mutable Mutex mutex_;
  Phase phase_ GUARDED_BY(mutex_) = Phase::kWarmUp;
  Setting setting_ GUARDED_BY(mutex_);
  bool no_direct_ GUARDED_BY(mutex_) = false;
  int active_ GUARDED_BY(mutex_) = 0;
  int step_ GUARDED_BY(mutex_) = 0;

  // Of the present step.
  int began_ GUARDED_BY(mutex_) = 0;        // that count
  int ended_ GUARDED_BY(mutex_) = 0;        // of these
  int unsaturated_ GUARDED_BY(mutex_) = 0;  // that began beside fewer others than wanted
  int passed_ GUARDED_BY(mutex_) = 0;       // that could have counted
  std::uint64_t bytes_ GUARDED_BY(mutex_) = 0;
  double seconds_ GUARDED_BY(mutex_) = 0;  // each divided by the reads that were in flight

  // Bytes per second of the settings that were tried; 0: not tried.
  double in_order_ GUARDED_BY(mutex_) = 0;
  double parallel_ GUARDED_BY(mutex_) = 0;
  double direct_ GUARDED_BY(mutex_) = 0;
  Setting best_ GUARDED_BY(mutex_);
  double best_rate_ GUARDED_BY(mutex_) = 0;
  bool tried_again_ GUARDED_BY(mutex_) = false;  // the present number of reads
};

}  // namespace streamer
