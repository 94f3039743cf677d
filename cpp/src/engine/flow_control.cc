#include "engine/flow_control.h"

#include <algorithm>
#include <string>

namespace streamer {
namespace {

constexpr std::uint64_t kViewsAhead = 512 * kMiB;

// A request costs its latency at the rate of a connection. Bounds, and what holds before the first
// read has ended.
constexpr std::uint64_t kLeastGap = 16 * kKiB;
constexpr double kUsualLatency = 0.01;
constexpr double kUsualRate = 50e6;
constexpr double kNewest = 0.25;  // weight of the last read in the rate

}  // namespace

void FlowControl::start(SourceKind kind, const Distance& distance) {
  Source& source = sources_.at(kind);
  source.limits.controller.start(distance);
  if (distance.latency > 0) source.latency = distance.latency;
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

Status FlowControl::admit(const std::vector<Block>& blocks) {
  const Block* largest = nullptr;
  for (const Block& block : blocks) {
    if (block.memory != BlockMemory::kPool || block.bytes == 0) continue;
    if (largest == nullptr || block.data_bytes > largest->data_bytes) largest = &block;
  }
  if (largest == nullptr) return {};
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
  if (budget_->limit() < capacity) budget_->set_limit(capacity);
  return {};
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

std::optional<Measurement> FlowControl::read_ended(SourceKind kind, std::uint64_t bytes,
                                                   const ReadReport& report, TimePoint now) {
  Source& source = sources_.at(kind);
  ConcurrencyController& controller = source.limits.controller;
  const bool measure = controller.completed(bytes, source.active, report, now);
  last_concurrency_ = source.limits.most_reads();
  --source.active;
  if (report.waited > 0 && report.seconds > report.waited) {
    const double rate = static_cast<double>(bytes) / (report.seconds - report.waited);
    source.rate = source.rate > 0 ? source.rate + kNewest * (rate - source.rate) : rate;
    source.latency = source.latency > 0 ? std::min(source.latency, report.waited) : report.waited;
  }
  if (!measure) return std::nullopt;
  return Measurement{kind, controller.needs_idle_times()};
}

void FlowControl::measured(SourceKind kind, const ProcessorTimes& times, TimePoint now) {
  ConcurrencyController& controller = sources_.at(kind).limits.controller;
  controller.measured(times, now);
  last_concurrency_ = controller.limit();
}

}  // namespace streamer
