// The destination of bytes outside host memory. Host memory needs none: workers read straight into
// it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/cancel.h"
#include "base/memory_budget.h"
#include "streamer/types.h"

namespace streamer {

// Host memory that a device can copy from. Belongs to the destination that gave it out.
struct StagingSlot {
  std::byte* data = nullptr;
  std::uint64_t size = 0;
  void* handle = nullptr;  // the destination's own
};

class Destination {
 public:
  virtual ~Destination() = default;  // after it returns, no copy is in flight and no callback runs
  // Copies that are given from now on start after the work that the caller's `stream` holds now: a
  // destination may be memory that this work still uses.
  virtual Status fence(void* stream) = 0;
  // The way to read files without staging, as a strategy's name; null: there is none. read_file()
  // does so: `segments` are device addresses, `fd` is one for O_DIRECT. False: the bytes have to be
  // staged; describe() reports problems.
  virtual const char* file_strategy() const { return nullptr; }
  virtual bool read_file(int /*fd*/, std::uint64_t /*offset*/,
                         std::span<const iovec> /*segments*/) {
    return false;
  }
  // Most bytes that one stage() may ask for.
  virtual std::uint64_t max_slot_bytes() const = 0;
  // Waits for a slot of at least `bytes` for the bytes at `offset` of their object: the slot's
  // address has the same place within a page, so that the bytes can be read past the page cache.
  // kCancelled after `cancel`.
  virtual Result<StagingSlot> stage(std::uint64_t bytes, std::uint64_t offset,
                                    const CancelToken& cancel) = 0;
  // Copies consecutive bytes of the slot to the device addresses of `segments`, takes the slot
  // back, and calls `done` exactly once, from any thread, when the bytes are there. Does not block.
  virtual void copy(StagingSlot slot, std::span<const iovec> segments,
                    std::function<void(Status)> done) = 0;
  // Takes back a slot that was not filled.
  virtual void discard(StagingSlot slot) = 0;
  // Of so many destinations of a stream, each has an equal share of the memory for staging.
  virtual void share(std::size_t /*destinations*/) {}
  // Adds notes for the statistics of a stream.
  virtual void describe(std::map<std::string, std::string>* notes) const = 0;
};

// The destination for `device`. Its staging memory counts against `budget`.
// kUnsupported or kDevice with the reason if it can't be used.
Result<std::unique_ptr<Destination>> make_destination(Device device, const Options& options,
                                                      MemoryBudget& budget);

}  // namespace streamer
