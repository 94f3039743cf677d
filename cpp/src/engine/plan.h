// The parts of a stream's plan: submissions are divided into blocks, blocks are read in chunks.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/block_sizes.h"
#include "base/memory_units.h"
#include "engine/memory_pool.h"
#include "source/source.h"
#include "streamer/types.h"

namespace streamer {

class Destination;
class HeldViews;

// Number of a worker thread of a stream: 0, 1, ..., in the order in which they were started.
using WorkerId = int;

// A file that was opened, or that could not be. Shared by the table of files and by submissions.
struct FileState {
  std::string path;
  SourceKind kind = SourceKind::kFile;
  std::shared_ptr<const Object> object;  // null if it could not be opened
  Status status;
  std::uint64_t viewed = 0;  // views of bytes below this are planned; of Plan::make()
};
using FileTable = std::vector<std::shared_ptr<FileState>>;

// The memory that the bytes of a block go to.
enum class BlockMemory {
  kPool,    // a buffer of the engine
  kView,    // the object's own mapping
  kCaller,  // destinations in host memory
  kDevice,  // destinations on a device
};

struct Submission {
  std::uint64_t id = 0;
  Device device;
  Destination* destination = nullptr;           // of a device
  std::uint64_t max_chunk = ~std::uint64_t{0};  // most bytes of one read
  std::vector<FileRanges> entries;
  FileTable files;                         // of each entry
  std::shared_ptr<const HeldViews> views;  // that the consumer holds; null: not counted
};

// Consecutive ranges of one entry, which are delivered together.
struct Block {
  std::shared_ptr<Submission> submission;
  std::uint32_t entry = 0;
  std::uint32_t first = 0;  // of the entry's ranges
  std::uint32_t count = 0;
  BlockMemory memory = BlockMemory::kPool;
  bool viewable = false;          // the object's own layout satisfies the ranges; not decided yet
  std::uint64_t bytes = 0;        // sum of the ranges' sizes
  std::uint64_t data_bytes = 0;   // of the memory that holds them, paddings included
  std::uint64_t page_offset = 0;  // of the first range in that memory
  std::vector<std::uint64_t> offsets;  // of each range in that memory

  std::byte* data = nullptr;
  std::shared_ptr<MemoryPool::Buffer> buffer;  // BlockMemory::kPool
  std::uint64_t scheduled = 0;                 // bytes that are part of a chunk
  std::uint64_t completed = 0;                 // bytes that arrived or failed
  Status status;

  const Range& range(std::uint32_t index) const {
    return submission->entries[entry].ranges[first + index];
  }
  Ownership ownership() const { return submission->entries[entry].ownership; }
  const FileState& file() const { return *submission->files[entry]; }
  std::uint32_t file_index() const { return submission->entries[entry].file; }
  bool has_memory() const { return memory != BlockMemory::kPool || data != nullptr || bytes == 0; }
  bool done() const { return completed == bytes; }
};

// Finds the files of a submission's entries. kInvalid if one was not opened.
Status find_files(const FileTable& files, Submission* submission);

// The blocks of a submission, in order. They are formed one after another, when they are wanted: a
// block takes five times the memory of a range, and a model has hundreds of thousands of ranges.
class Plan {
 public:
  // Checks all ranges. No block groups ranges to more than `max_group` bytes. kShortRead if a range
  // ends behind its object, kInvalid if an alignment is not a power of two up to 64. Bytes are
  // viewed at most once: a write of the consumer to one range must not show in another. The files
  // of a submission are planned with by one thread at a time.
  static Result<Plan> make(std::shared_ptr<Submission> submission, std::uint64_t max_group);

  bool at_end() const { return entry_ == submission_->entries.size(); }
  // Forms the next block. Nothing changes if it throws.
  Block next();

  // Of all blocks, also of those that were formed.
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t bytes_to_read() const { return bytes_to_read_; }  // without files that are not open
  // The block that takes the most memory of the engine, if one takes any.
  const std::optional<Block>& largest() const { return largest_; }

 private:
  Plan(std::shared_ptr<Submission> submission, std::uint64_t max_group)
      : submission_(std::move(submission)), max_group_(max_group) {}
  Status check();
  void pass_finished_entries();

  std::shared_ptr<Submission> submission_;
  std::uint64_t max_group_ = 0;
  std::vector<std::uint64_t> viewed_;  // FileState::viewed, when each entry begins
  std::uint64_t bytes_ = 0;
  std::uint64_t bytes_to_read_ = 0;
  std::optional<Block> largest_;

  std::uint32_t entry_ = 0;  // of the next block
  std::uint32_t range_ = 0;  // index into that entry
};

// One read: consecutive bytes of one object for one or more blocks.
struct Chunk {
  std::shared_ptr<const Object> object;
  SourceKind kind = SourceKind::kFile;
  BlockMemory memory = BlockMemory::kPool;
  Destination* destination = nullptr;  // of a device
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::vector<iovec> segments;  // host or device addresses, and gaps; one for a view
  struct Share {
    Block* block;  // keeps its address until all its bytes are completed
    std::uint64_t bytes;
  };
  std::vector<Share> shares;               // of the bytes that are no gaps
  WorkerId worker = 0;                     // that reads it
  bool reading = true;                     // it counts among the reads in flight
  std::shared_ptr<ReadProgress> progress;  // null: not watched
  int aborts = 0;                          // times that these bytes were taken from a slow read
};

// Leaves `chunk` its first `bytes` and returns the others.
Chunk split_off(Chunk* chunk, std::uint64_t bytes);

}  // namespace streamer
