// The part of a memory limit that readers hold: transport buffers of connections.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/memory_budget.h"
#include "source/source.h"

namespace streamer {

// The memory limit is at least so many times the memory of a source's readers.
inline constexpr std::uint64_t kShareOfReaders = 4;

// The readers of a source that fit into a memory limit of `limit` bytes: at least one.
inline int affordable_readers(std::uint64_t limit, const SourceTraits& traits) {
  constexpr int kMost = std::numeric_limits<int>::max();
  if (traits.reader_bytes == 0) return kMost;
  const std::uint64_t readers = limit / kShareOfReaders / traits.reader_bytes;
  return static_cast<int>(std::clamp<std::uint64_t>(readers, 1, kMost));
}

// Readers are made while blocks fill the memory, too: an explicit limit sets their memory aside,
// and bounds their number, also a number of reads that was `chosen` (0: none was).
inline SourceTraits set_aside_for_readers(SourceTraits traits, int* chosen, MemoryBudget* budget) {
  const int most = affordable_readers(budget->limit() - budget->set_aside_bytes(), traits);
  traits.max_concurrency = std::min(traits.max_concurrency, most);
  traits.initial_concurrency = std::min(traits.initial_concurrency, most);
  *chosen = std::min(*chosen, most);
  const int readers = *chosen > 0 ? *chosen : traits.max_concurrency;
  budget->set_aside(budget->set_aside_bytes() +
                    static_cast<std::uint64_t>(readers) * traits.reader_bytes);
  return traits;
}

}  // namespace streamer
