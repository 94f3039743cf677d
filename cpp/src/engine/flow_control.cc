#include "engine/flow_control.h"

#include <algorithm>
#include <string>

namespace streamer {
namespace {

constexpr std::uint64_t kViewsAhead = 512 * kMiB;

}  // namespace

void FlowControl::start(SourceKind kind, const Distance& distance) {
  sources_.at(kind).limits.controller.start(distance);
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
  return source.active < source.limits.controller.limit();
}

int FlowControl::most_reads() const {
  int most = 0;
  for (const auto& [kind, source] : sources_) {
    most = std::max(most, source.limits.controller.limit());
  }
  return most;
}

std::optional<Measurement> FlowControl::read_ended(SourceKind kind, std::uint64_t bytes,
                                                   const ReadReport& report, TimePoint now) {
  Source& source = sources_.at(kind);
  ConcurrencyController& controller = source.limits.controller;
  const bool measure = controller.completed(bytes, source.active, report, now);
  last_concurrency_ = controller.limit();
  --source.active;
  if (!measure) return std::nullopt;
  return Measurement{kind, controller.needs_idle_times()};
}

void FlowControl::measured(SourceKind kind, const ProcessorTimes& times, TimePoint now) {
  ConcurrencyController& controller = sources_.at(kind).limits.controller;
  controller.measured(times, now);
  last_concurrency_ = controller.limit();
}

}  // namespace streamer
