// The address space that a memory pool takes its buffers from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/memory_units.h"

namespace streamer {

// Fresh memory in huge pages lets a device read in large pieces. If the system has no free huge
// page, making one costs many times as much as small pages of its size; bytes that arrive through a
// socket do not need them.
enum class Pages { kSmall, kHuge };

// The place of fresh memory.
enum class Place {
  kAligned,    // from starts_at_huge_page() on it starts at a huge page, so that it moves cheaply
  kContiguous  // beside the last mapping, so that both are one mapping of the kernel
};

// Thread-safe. A simulation replaces it.
class AddressSpace {
 public:
  // The process's own.
  static AddressSpace& system();
  virtual ~AddressSpace() = default;
  // `bytes` of uninitialised memory that starts a page. Null if the system has no memory.
  virtual std::byte* map(std::uint64_t bytes, Pages pages, Place place) = 0;
  // Takes back memory of map().
  virtual void release(std::byte* data, std::uint64_t bytes) = 0;
  // Takes back whole pages of it.
  virtual void unmap(std::byte* data, std::uint64_t bytes) = 0;
  // Takes back the content of whole pages, which stay mapped.
  virtual void discard(std::byte* data, std::uint64_t bytes) = 0;
  // Moves whole pages to `target`, which is mapped; no byte is copied. False: not possible, and
  // nothing was moved.
  virtual bool move(std::byte* data, std::uint64_t bytes, std::byte* target) = 0;
};

// True if memory of this size starts at a multiple of a huge page: 2 MiB of it, in one page or in
// many, can then move in the address space by one entry of the page tables.
constexpr bool starts_at_huge_page(std::uint64_t bytes) { return bytes >= 2 * kHugePage; }

}  // namespace streamer
