#include "source/file/read_trial.h"

#include <algorithm>
#include <utility>

#include "source/file/descriptor_cache.h"

namespace streamer {
namespace {

constexpr int kReadsInOrder = 4;  // that are measured
constexpr int kFirstReads = 2;    // at once
constexpr int kLeastReads = 4;    // that are measured of several at once: they differ
constexpr int kReadsToConfirm = 8;
constexpr double kWorthJumps = 1.2;
// A busy machine makes any few reads slow. A larger gain than this needs no second look.
constexpr double kBeyondDoubt = 3;
constexpr double kHopeless = 0.5;     // of reading in order
constexpr double kWorthDirect = 1.2;  // the page cache serves other processes, too
constexpr double kAsGood = 0.9;
constexpr int kMostStreams = static_cast<int>(DescriptorCache::kMostStreams);
constexpr double kWorthGrowing = 1.1;
constexpr int kFew = 16;
constexpr int kGenerous = 32;
constexpr int kLong = 8;

}  // namespace

ReadTrial::ReadTrial(int fixed) : fixed_(fixed) {
  const MutexLock lock(mutex_);
  if (fixed_ > 0) enter_locked(Phase::kDirect, {true, fixed_});
}

ReadTrial::Setting ReadTrial::setting() const {
  const MutexLock lock(mutex_);
  return setting_;
}

ReadTrial::Amount ReadTrial::amount() const {
  const MutexLock lock(mutex_);
  return {setting_.reads, phase_ < Phase::kGrow};
}

bool ReadTrial::decided() const {
  const MutexLock lock(mutex_);
  return phase_ == Phase::kDecided;
}

std::string ReadTrial::describe() const {
  const MutexLock lock(mutex_);
  const std::string way = setting_.direct ? "past the page cache" : "by the page cache";
  const std::string number = setting_.reads == 1
                                 ? "one read at a time, in order"
                                 : std::to_string(setting_.reads) + " reads at once";
  const std::string how = setting_.whole ? "as a whole, " : "";
  return number + ", " + how + way + (phase_ == Phase::kDecided ? "" : " (not decided yet)");
}

void ReadTrial::enter_locked(Phase phase, Setting setting) {
  phase_ = phase;
  setting_ = setting;
  ++step_;
  began_ = ended_ = unsaturated_ = 0;
  passed_ = 0;
  bytes_ = 0;
  seconds_ = 0;
}

ReadTrial::Read ReadTrial::begin() {
  const MutexLock lock(mutex_);
  ++active_;
  // A read that began beside fewer others than intended does not count for their number.
  bool counts = active_ >= setting_.reads && began_ < wanted_reads_locked();
  // The first read in order after others jumps.
  if (counts && phase_ == Phase::kInOrderAgain && passed_++ == 0) counts = false;
  if (counts) ++began_;
  return {setting_, step_, active_, counts};
}

int ReadTrial::wanted_reads_locked() const {
  switch (phase_) {
    case Phase::kWarmUp: return 1;
    case Phase::kInOrder:
    case Phase::kInOrderAgain: return kReadsInOrder;
    case Phase::kBestAgain: return std::max(setting_.reads, kReadsToConfirm);
    default: return std::max(setting_.reads, kLeastReads);
  }
}

double ReadTrial::rate_locked() const {
  return static_cast<double>(bytes_) / std::max(seconds_, 1e-9);
}

bool ReadTrial::hopeless_locked() const { return rate_locked() < in_order_ * kHopeless; }

// If several reads are much faster than one, too few of them cost more than too many.
bool ReadTrial::harmless_locked() const {
  return !setting_.whole && setting_.reads <= kGenerous && best_rate_ >= in_order_ * kBeyondDoubt &&
         rate_locked() >= best_rate_ * kAsGood;
}

void ReadTrial::ended(const Read& read, std::uint64_t bytes, double seconds) {
  const MutexLock lock(mutex_);
  --active_;
  if (phase_ == Phase::kDecided || read.step != step_) return;
  if (bytes == 0) {
    if (read.counts) --began_;  // another one takes its place
    return;
  }
  if (!read.counts) {
    if (read.active >= setting_.reads) return;
    // If the consumer or the memory bounds the reads for long, more of them are of no use.
    const bool bounded = ++unsaturated_ > kLong * setting_.reads;
    if (bounded && (phase_ == Phase::kGrow || phase_ == Phase::kBestAgain)) decide_locked();
    return;
  }
  bytes_ += bytes;
  seconds_ += seconds / read.active;
  ++ended_;
  const bool first = phase_ == Phase::kDirect || (phase_ == Phase::kParallel && no_direct_);
  const bool enough = first && ended_ >= setting_.reads && hopeless_locked();
  if (enough || ended_ >= wanted_reads_locked()) judge_locked(rate_locked());
}

void ReadTrial::judge_locked(double rate) {
  switch (phase_) {
    case Phase::kWarmUp: return enter_locked(Phase::kInOrder, {false, 1});
    case Phase::kInOrder:
      in_order_ = rate;
      // The kernel asks for more at once past the page cache, so that fewer requests jump.
      return no_direct_ ? enter_locked(Phase::kParallel, {false, kFirstReads})
                        : enter_locked(Phase::kDirect, {true, kFirstReads});
    case Phase::kDirect:
      direct_ = best_rate_ = rate;
      best_ = setting_;
      if (!hopeless_locked()) return enter_locked(Phase::kParallel, {false, setting_.reads});
      // By the page cache, in smaller requests, they would jump more often.
      return grow_locked();
    case Phase::kParallel: parallel_ = rate; return compare_locked();
    case Phase::kGrow:
      if (rate < best_rate_ * kWorthGrowing && !harmless_locked()) {
        // Few reads that do pay: one that waited long may hide that more would bring more.
        const bool again = setting_.reads <= kFew && best_rate_ > in_order_ * kWorthJumps;
        if (!again || std::exchange(tried_again_, true)) return decide_locked();
        return enter_locked(Phase::kGrow, setting_);
      }
      tried_again_ = false;
      best_ = setting_;
      best_rate_ = std::max(best_rate_, rate);
      if (parallel_ > 0) return grow_locked();
      direct_ = rate;
      if (direct_ < in_order_) return grow_locked();
      return enter_locked(Phase::kParallel, {false, std::min(setting_.reads, kMostStreams)});
    case Phase::kInOrderAgain:
      in_order_ = std::max(in_order_, rate);
      if (best_rate_ < in_order_ * kWorthJumps) return decide_locked();
      return enter_locked(Phase::kBestAgain, best_);
    case Phase::kBestAgain: best_rate_ = std::min(best_rate_, rate); return decide_locked();
    case Phase::kDecided: return;
  }
}

// One of the two ways with several reads at once. Few of them may be slower than reading in order
// with much readahead: the speed of more of them counts.
void ReadTrial::compare_locked() {
  if (direct_ <= parallel_ * kWorthDirect) {
    best_ = setting_;
    best_rate_ = parallel_;
  }
  if (fixed_ > 0) return enter_locked(Phase::kDecided, best_);
  grow_locked();
}

void ReadTrial::grow_locked() {
  const int more = 2 * best_.reads;
  // More than there are descriptors for: readers that share one would jump in it.
  const bool direct = best_.direct || more > kMostStreams;
  const bool possible = !direct || direct_ >= parallel_ * kAsGood;
  if (more <= kMostReads && possible) return enter_locked(Phase::kGrow, {direct, more});
  if (best_.direct || best_.whole) return decide_locked();
  enter_locked(Phase::kGrow, {.reads = best_.reads, .whole = true});
}

void ReadTrial::decide_locked() {
  const bool jumps_pay = best_rate_ >= in_order_ * kWorthJumps;
  const bool doubtful = jumps_pay && best_rate_ < in_order_ * kBeyondDoubt;
  if (doubtful && phase_ != Phase::kInOrderAgain && phase_ != Phase::kBestAgain) {
    return enter_locked(Phase::kInOrderAgain, {false, 1});
  }
  enter_locked(Phase::kDecided, jumps_pay ? best_ : Setting{false, 1});
}

void ReadTrial::refuse_direct() {
  const MutexLock lock(mutex_);
  if (no_direct_) return;
  no_direct_ = true;
  best_.direct = false;
  direct_ = 0;
  const bool untried = setting_.direct && parallel_ == 0;
  if (untried) return enter_locked(Phase::kParallel, {false, setting_.reads});
  if (setting_.direct) enter_locked(Phase::kDecided, {false, setting_.reads});
}

}  // namespace streamer
