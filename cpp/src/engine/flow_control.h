// The number of reads that may be in flight, and the bytes that they may read ahead of the
// consumer.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>

#include "base/memory_budget.h"
#include "engine/concurrency.h"
#include "engine/plan.h"

namespace streamer {

// The limits of reads of a source.
struct SourceLimits {
  std::uint64_t chunk_bytes = 0;       // most bytes of one read
  std::uint64_t view_chunk_bytes = 0;  // of one prefault
  ConcurrencyController controller;
  bool stragglers = false;                             // see StragglerPolicy
  bool skips_gaps = false;                             // see SourceTraits
  std::uint64_t reader_bytes = 0;                      // that each connection holds
  int most_readers = std::numeric_limits<int>::max();  // that the memory limit pays for
  std::uint64_t most_window = 0;  // bytes to which an automatic memory limit may grow; 0: not
  std::uint64_t most_chunk = 0;   // bytes to which reads may grow; 0: not
  // See SourceTraits; in the place of the controller.
  std::shared_ptr<const WantedReads> reads = nullptr;
  std::shared_ptr<const std::atomic<std::uint64_t>> refusals = nullptr;  // see SourceTraits

  // Reads that may be in flight at once.
  int most_reads() const {
    const int wanted = reads ? reads->number.load(std::memory_order_relaxed) : controller.limit();
    return std::min(wanted, most_readers);
  }
};

// The policy of concurrency and of the window of memory. Both follow one number, the reads that the
// controller, or the source, wants in flight. A state without threads, clocks or system calls: the
// caller passes the time.
class FlowControl {
 public:
  using TimePoint = Clock::time_point;

  FlowControl(std::shared_ptr<MemoryBudget> budget, MemoryLimit memory_limit)
      : budget_(std::move(budget)), memory_limit_(memory_limit) {}

  void add_source(SourceKind kind, const SourceLimits& limits) {
    sources_.emplace(kind, Source{limits, limits.chunk_bytes});
  }
  // Memory is left for so many readers; no effect if the source is not known.
  void bound_reads(SourceKind kind, int most) {
    if (auto source = sources_.find(kind); source != sources_.end()) {
      source->second.limits.most_readers = most;
    }
  }
  // True if readers still have memory that the largest block needs.
  bool readers_exceed() const { return budget_->readers_exceed(); }
  const SourceLimits& limits(SourceKind kind) const { return sources_.at(kind).limits; }
  // Bytes of one read: more if the storage limits the rate of requests, or will do so soon, and
  // fewer if memory is short for as many reads as are wanted.
  std::uint64_t chunk_bytes(SourceKind kind) const;
  // See ConcurrencyController::start().
  void start(SourceKind kind, const Proximity& proximity);

  // Bytes of memory that keep the source busy: those in flight, as many that wait for earlier ones,
  // and the largest block on its way out, in the hands of the consumer and half read.
  std::uint64_t window(SourceKind kind) const;
  // Raises an automatic memory limit by up to `bytes`, up to the window. False: it is reached.
  bool widen(SourceKind kind, std::uint64_t bytes);

  // Raises an automatic memory limit to the staging memory and connections that the reads in flight
  // and one more need, up to the window.
  void make_room_to_stage(SourceKind kind);

  // Makes room for the largest block. kMemoryLimit if it is larger than an explicit limit.
  Status admit(const Plan& plan);
  // Views take no memory of the engine, but there is no use in prefaulting far ahead.
  bool admits_view(std::uint64_t bytes) const;
  void view_scheduled(std::uint64_t bytes) { views_ahead_ += bytes; }
  void view_delivered(std::uint64_t bytes) { views_ahead_ -= bytes; }

  // Reads of the source that may be in flight.
  std::uint64_t reads(SourceKind kind) const {
    return static_cast<std::uint64_t>(sources_.at(kind).limits.most_reads());
  }
  // Fewer and larger reads of sources that have asked to slow down since the last call.
  void heed_refusals();
  // True if one more read of the source may begin.
  bool admits_read(SourceKind kind) const;
  // The largest gap between wanted bytes that a read of the source passes over: a larger one costs
  // more than another read, as far as reads have shown.
  std::uint64_t gap_bytes(SourceKind kind) const;
  // Reads that the sources together may have in flight at most: as many workers are of use.
  int most_reads() const;
  void read_began(SourceKind kind) { ++sources_.at(kind).active; }
  // True: the caller makes a measurement and passes it to measured().
  bool read_ended(SourceKind kind, std::uint64_t bytes, const ReadReport& report, TimePoint now);
  // See ConcurrencyController::measured().
  void measured(SourceKind kind, double used, std::uint64_t in_flight, TimePoint now);
  // Of the source that was read last.
  int concurrency() const { return last_ == nullptr ? 0 : last_->limits.most_reads(); }
  ConcurrencyController::Bound bound() const {
    return last_ == nullptr ? ConcurrencyController::Bound::kUnknown
                            : last_->limits.controller.bound();
  }

 private:
  struct Source {
    SourceLimits limits;
    std::uint64_t chunk_bytes = 0;
    int active = 0;            // reads in flight
    int reads_to_pass = 0;     // before reads may become larger again
    std::uint64_t heeded = 0;  // of the refusals
    double latency = 0;        // seconds until a response begins, the least so far; 0: not known
    double rate = 0;           // bytes per second of one read since then, about; 0: not known
  };
  std::uint64_t most_memory(const Source& source) const;
  // True if memory is enough for reads of `bytes`, as many as are wanted.
  bool fits(const Source& source, std::uint64_t bytes) const;
  // False: they are as large as they may be, or became larger a short time ago.
  static bool enlarge_reads(Source* source);

  const std::shared_ptr<MemoryBudget> budget_;
  const MemoryLimit memory_limit_;
  std::map<SourceKind, Source> sources_;
  std::uint64_t largest_ = 0;      // block, in bytes of memory
  std::uint64_t views_ahead_ = 0;  // bytes of views that are scheduled and not delivered
  const Source* last_ = nullptr;
};

}  // namespace streamer
