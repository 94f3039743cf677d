// Blocks: what is delivered together. And the plan that cuts submissions into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/memory_units.h"
#include "engine/block_pool.h"
#include "source/source.h"
#include "streamer/types.h"

namespace streamer {

class Destination;

struct FileState {
  std::string path;
  SourceKind kind = SourceKind::kFile;
  std::shared_ptr<const Object> object;  // null until opened
  Status status;
  std::uint64_t viewed = 0;  // views of bytes below this were planned
};

// Where a block's bytes go.
enum class Placement {
  kPool,    // memory of the engine
  kView,    // the object's own mapping
  kCaller,  // destinations in host memory
  kDevice,  // destinations on a device
};

// Consecutive ranges of one entry. Ranges smaller than kSmallRange share blocks of up to
// kGroupBytes, so that a kept tensor never holds much more memory than itself; any other range is
// a block of its own.
inline constexpr std::uint64_t kSmallRange = 256 * kKiB;
inline constexpr std::uint64_t kGroupBytes = kMiB;

struct Submission {
  std::uint64_t id = 0;
  Device device;
  Destination* destination = nullptr;           // of a device
  std::uint64_t max_chunk = ~std::uint64_t{0};  // bytes that one read may have
  std::vector<FileRanges> entries;
};

struct Block {
  std::shared_ptr<Submission> submission;
  std::uint32_t entry = 0;
  std::uint32_t file = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  Placement placement = Placement::kPool;
  bool viewable = false;         // the object's own layout would do
  std::uint64_t bytes = 0;       // sum of the ranges' sizes
  std::uint64_t data_bytes = 0;  // of the memory that holds them, paddings included
  std::uint64_t skew = 0;        // where the first range starts in that memory
  std::vector<std::uint64_t> positions;

  std::byte* data = nullptr;
  std::shared_ptr<BlockPool::Memory> memory;  // placement kPool
  std::uint64_t scheduled = 0;                // bytes handed to workers
  std::uint64_t completed = 0;                // bytes that arrived or failed
  Status status;

  const Range& range(std::uint32_t index) const { return submission->entries[entry].ranges[index]; }
  bool placed() const { return placement != Placement::kPool || data != nullptr || bytes == 0; }
  bool done() const { return completed == bytes; }
};

// Appends the blocks of `submission` to `blocks`, in order; none groups ranges to more than
// `max_group` bytes. kShortRead where a range reaches past its object, kInvalid where an alignment
// is not a power of two up to 64. Bytes are viewed at most once: what a consumer writes to one
// range must not show in another.
Status plan_blocks(const std::shared_ptr<Submission>& submission, std::uint64_t max_group,
                   std::vector<FileState>* files, std::vector<Block>* blocks);

}  // namespace streamer
