// Both steps of an allocation from a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/memory_pool.h"

namespace streamer::testing {

// Null if the budget has no room, or with `*refused` if the system has no memory.
inline std::shared_ptr<MemoryPool::Buffer> allocate_from(MemoryPool& pool, std::uint64_t bytes,
                                                         Pages pages, bool force, bool* refused) {
  *refused = false;
  auto reservation = pool.reserve(bytes, pages, force);
  if (!reservation) return nullptr;
  auto buffer = pool.map(std::move(*reservation));
  *refused = buffer == nullptr;
  return buffer;
}

}  // namespace streamer::testing
