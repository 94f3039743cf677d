// How many reads may be under way, and how much they may have read ahead of the consumer.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/memory_budget.h"
#include "engine/concurrency.h"
#include "engine/plan.h"

namespace streamer {

// How a source is read.
struct SourceLimits {
  std::uint64_t chunk_bytes = 0;       // most bytes of one read
  std::uint64_t view_chunk_bytes = 0;  // of one prefault
  ConcurrencyController controller;
  bool stragglers = false;  // see StragglerPolicy
  bool skips_gaps = false;  // see SourceTraits
  // See SourceTraits; in the place of the controller.
  std::shared_ptr<const std::atomic<int>> reads = nullptr;

  // Reads that may be under way at once.
  int most_reads() const {
    return reads ? reads->load(std::memory_order_relaxed) : controller.limit();
  }
};

// The times of the processors that a policy needs before it goes on.
struct Measurement {
  SourceKind kind;
  bool with_idle;
};

// The policy of concurrency and of the window of memory. A state without threads, clocks or system
// calls: whoever asks says what time it is.
class FlowControl {
 public:
  using TimePoint = Clock::time_point;

  FlowControl(std::shared_ptr<MemoryBudget> budget, MemoryLimit memory_limit)
      : budget_(std::move(budget)), memory_limit_(memory_limit) {}

  void add_source(SourceKind kind, SourceLimits limits) { sources_.emplace(kind, Source{limits}); }
  const SourceLimits& limits(SourceKind kind) const { return sources_.at(kind).limits; }
  // See ConcurrencyController::start().
  void start(SourceKind kind, const Distance& distance);

  // Makes room for the largest of `blocks`. kMemoryLimit if it is larger than an explicit limit.
  Status admit(const std::vector<Block>& blocks);
  // Views take no memory of the engine, but there is no use in prefaulting far ahead.
  bool admits_view(std::uint64_t bytes) const;
  void view_scheduled(std::uint64_t bytes) { views_ahead_ += bytes; }
  void view_delivered(std::uint64_t bytes) { views_ahead_ -= bytes; }

  // Whether one more read of the source may begin.
  bool admits_read(SourceKind kind) const;
  // The largest gap between wanted bytes that a read of the source passes over: a larger one costs
  // more than another read, as far as reads have shown.
  std::uint64_t gap_bytes(SourceKind kind) const;
  // Reads that the sources together may have under way at most: as many workers are of use.
  int most_reads() const;
  void read_began(SourceKind kind) { ++sources_.at(kind).active; }
  // The caller makes the measurement, if there is one, and passes it to measured().
  std::optional<Measurement> read_ended(SourceKind kind, std::uint64_t bytes,
                                        const ReadReport& report, TimePoint now);
  void measured(SourceKind kind, const ProcessorTimes& times, TimePoint now);
  int concurrency() const { return last_concurrency_; }  // of the source that was read last

 private:
  struct Source {
    SourceLimits limits;
    int active = 0;      // reads under way
    double latency = 0;  // seconds until a response begins, the least so far; 0: not known
    double rate = 0;     // bytes per second of one read since then, about; 0: not known
  };
  const std::shared_ptr<MemoryBudget> budget_;
  const MemoryLimit memory_limit_;
  std::map<SourceKind, Source> sources_;
  std::uint64_t views_ahead_ = 0;  // bytes of views that are scheduled and not delivered
  int last_concurrency_ = 0;
};

}  // namespace streamer
