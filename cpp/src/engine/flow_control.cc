#include "engine/flow_control.h"

#include <algorithm>
#include <string>

namespace streamer {
namespace {

constexpr std::uint64_t kViewsAhead = 512 * kMiB;
constexpr std::uint64_t kTimesInFlight = 3;

constexpr std::uint64_t kPartThatWaits = 4;  // of the bytes in flight, at the least
constexpr double kTimesLargest = 2.5;
constexpr std::uint64_t kTimesStaged = 2;  // a slot that is read into, one that is copied from
constexpr double kManyRequests = 5e9;      // bytes per second: hundreds of reads of some MiB
constexpr int kReadsBetween = 4;           // for each connection

// A request costs its latency at the rate of a connection. Bounds, and the values before the first
// read has ended.
constexpr std::uint64_t kLeastGap = 16 * kKiB;
constexpr double kUsualLatency = 0.01;
constexpr double kUsualRate = 50e6;
constexpr double kNewest = 0.25;  // weight of the last read in the rate

}  // namespace

void FlowControl::start(SourceKind kind, const Proximity& proximity) {
  Source& source = sources_.at(kind);
  source.limits.controller.start(proximity);
  if (proximity.latency > 0) source.latency = proximity.latency;
}

std::uint64_t FlowControl::gap_bytes(SourceKind kind) const {
  const Source& source = sources_.at(kind);
  const std::uint64_t most = source.limits.chunk_bytes / 2;
  if (source.limits.skips_gaps) return most;
  const double latency = source.latency > 0 ? source.latency : kUsualLatency;
  const double rate = source.rate > 0 ? source.rate : kUsualRate;
  const double cost = std::min(latency * rate, static_cast<double>(most));
  return std::max(static_cast<std::uint64_t>(cost), std::min(kLeastGap, most));
}

Status FlowControl::admit(const Plan& plan) {
  const std::optional<Block>& largest = plan.largest();
  if (!largest) return {};
  if (largest->bytes > memory_limit_.largest_block()) {
    const Range& range = largest->range(0);
    return Status::error(Code::kMemoryLimit, "the memory limit of " +
                                                 std::to_string(memory_limit_.largest_block()) +
                                                 " bytes is below the largest tensor")
        .with_path(largest->file().path)
        .with_range(range.offset, range.size)
        .with_hint("Set RUNAI_STREAMER_MEMORY_LIMIT to at least " + std::to_string(largest->bytes) +
                   ", or to 0 for the least that works");
  }
  // The automatic and the least limit are at least the largest block.
  const std::uint64_t capacity = MemoryPool::capacity_for(largest->data_bytes);
  largest_ = std::max(largest_, capacity);
  std::uint64_t least = capacity;
  if (memory_limit_.kind() == MemoryLimit::Kind::kAutomatic) {
    const std::uint64_t most = sources_.at(largest->file().kind).limits.most_window;
    const auto enough = static_cast<std::uint64_t>(kTimesLargest * static_cast<double>(capacity));
    least = std::max(least, std::min(enough, most));
  }
  if (budget_->limit() < least) budget_->set_limit(least);
  return {};
}

std::uint64_t FlowControl::window(SourceKind kind) const {
  const SourceLimits& limits = sources_.at(kind).limits;
  const auto reads = static_cast<std::uint64_t>(limits.most_reads());
  const std::uint64_t needed =
      reads * (kTimesInFlight * chunk_bytes(kind) + limits.reader_bytes) +
      static_cast<std::uint64_t>(kTimesLargest * static_cast<double>(largest_));
  return std::min(needed, limits.most_window);
}

std::uint64_t FlowControl::most_memory(const Source& source) const {
  return memory_limit_.kind() == MemoryLimit::Kind::kAutomatic
             ? std::max(source.limits.most_window, budget_->limit())
             : budget_->limit();
}

std::uint64_t FlowControl::chunk_bytes(SourceKind kind) const {
  const Source& source = sources_.at(kind);
  if (source.limits.reads) {
    return std::min(source.chunk_bytes,
                    source.limits.reads->most_bytes.load(std::memory_order_relaxed));
  }
  if (source.limits.most_chunk == 0) return source.chunk_bytes;
  return fits(source, source.chunk_bytes) ? source.chunk_bytes : source.chunk_bytes / 2;
}

bool FlowControl::fits(const Source& source, std::uint64_t bytes) const {
  const std::uint64_t of_each = bytes + bytes / kPartThatWaits + source.limits.reader_bytes;
  return static_cast<std::uint64_t>(source.limits.controller.limit()) <=
         most_memory(source) / of_each;
}

bool FlowControl::widen(SourceKind kind, std::uint64_t bytes) {
  if (memory_limit_.kind() != MemoryLimit::Kind::kAutomatic) return false;
  const std::uint64_t limit = budget_->limit();
  const std::uint64_t most = window(kind);
  if (limit >= most) return false;
  budget_->set_limit(limit + std::min(bytes, most - limit));
  return true;
}

void FlowControl::make_room_to_stage(SourceKind kind) {
  const Source& source = sources_.at(kind);
  const auto reads = static_cast<std::uint64_t>(source.active) + 1;
  const std::uint64_t needed =
      reads * (kTimesStaged * source.chunk_bytes + source.limits.reader_bytes);
  const std::uint64_t limit = budget_->limit();
  if (needed > limit) widen(kind, needed - limit);
}

bool FlowControl::admits_view(std::uint64_t bytes) const {
  return views_ahead_ == 0 || views_ahead_ + bytes <= kViewsAhead;
}

bool FlowControl::admits_read(SourceKind kind) const {
  const Source& source = sources_.at(kind);
  return source.active < source.limits.most_reads();
}

int FlowControl::most_reads() const {
  int most = 0;
  for (const auto& [kind, source] : sources_) {
    most = std::max(most, source.limits.most_reads());
  }
  return most;
}

bool FlowControl::read_ended(SourceKind kind, std::uint64_t bytes, const ReadReport& report,
                             TimePoint now) {
  Source& source = sources_.at(kind);
  ConcurrencyController& controller = source.limits.controller;
  heed_refusals();
  const bool measure = controller.completed(bytes, source.active, report, now);
  last_ = &source;
  --source.active;
  if (report.waited > 0 && report.seconds > report.waited) {
    const double rate = static_cast<double>(bytes) / (report.seconds - report.waited);
    source.rate = source.rate > 0 ? source.rate + kNewest * (rate - source.rate) : rate;
    source.latency = source.latency > 0 ? std::min(source.latency, report.waited) : report.waited;
  }
  if (source.reads_to_pass > 0) --source.reads_to_pass;
  if (controller.settled() && controller.rate() > kManyRequests &&
      kTimesInFlight * static_cast<std::uint64_t>(controller.limit()) <=
          most_memory(source) / (2 * source.chunk_bytes)) {
    enlarge_reads(&source);
  }
  return measure;
}

void FlowControl::heed_refusals() {
  for (auto& [kind, source] : sources_) {
    if (!source.limits.refusals) continue;
    const std::uint64_t refusals = source.limits.refusals->load(std::memory_order_relaxed);
    if (refusals == source.heeded) continue;
    source.heeded = refusals;
    ConcurrencyController& controller = source.limits.controller;
    controller.refused();
    if (fits(source, 2 * source.chunk_bytes) && enlarge_reads(&source)) controller.reads_grew();
  }
}

// Storage limits the rate of requests, and few large requests transfer as much as many small ones.
bool FlowControl::enlarge_reads(Source* source) {
  const std::uint64_t larger = 2 * source->chunk_bytes;
  if (source->reads_to_pass > 0 || larger > source->limits.most_chunk) return false;
  source->chunk_bytes = larger;
  source->reads_to_pass = kReadsBetween * source->limits.controller.limit();
  return true;
}

void FlowControl::measured(SourceKind kind, double used, std::uint64_t in_flight, TimePoint now) {
  ConcurrencyController& controller = sources_.at(kind).limits.controller;
  controller.measured(used, in_flight, now);
}

}  // namespace streamer
