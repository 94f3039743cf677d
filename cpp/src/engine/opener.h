// Opening files and reading small ranges at once, for a caller that waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/interrupt_poll.h"
#include "base/memory_budget.h"
#include "base/mutex.h"
#include "engine/file_set.h"
#include "engine/reader_quota.h"
#include "engine/scheduler.h"
#include "engine/slabs.h"

namespace streamer {

// Thread-safe: several threads may open at the same time. The work is done by workers of the
// scheduler, as tasks.
class Opener {
 public:
  // All outlive the opener.
  Opener(const Options& options, FileSet& files, Scheduler& scheduler, const MemoryBudget& budget,
         const ReaderQuota& readers, const CancelToken& cancel, std::shared_ptr<Slabs> slabs)
      : options_(options),
        files_(files),
        scheduler_(scheduler),
        budget_(budget),
        readers_(readers),
        cancel_(cancel),
        slabs_(std::move(slabs)) {}

  // See Stream.
  Result<std::uint32_t> begin_open(const std::vector<std::string>& paths,
                                   std::uint64_t prefix_bytes,
                                   const std::vector<std::string>& versions) EXCLUDES(mutex_);
  Result<std::vector<OpenedFile>> opened(std::uint32_t first) EXCLUDES(mutex_);
  Result<std::uint64_t> begin_read(const std::vector<FileRanges>& wanted) EXCLUDES(mutex_);
  Result<Bytes> next_read(std::uint64_t reading) EXCLUDES(mutex_);

 private:
  class Latch;
  struct Opening;
  struct Reading;
  // Waits for one task.
  Status wait(Latch& latch, std::size_t task);
  // Workers that may run tasks for the source: more, the longer a response takes.
  int width(SourceKind kind, const Source& source) const;
  void add_open(const std::shared_ptr<Opening>& work, std::size_t index);
  Status open_one(Opening& work, std::size_t index);

  const Options& options_;
  FileSet& files_;
  Scheduler& scheduler_;
  const MemoryBudget& budget_;
  const ReaderQuota& readers_;
  const CancelToken& cancel_;
  const std::shared_ptr<Slabs> slabs_;

  Mutex mutex_;
  // By the index of the first file, and by number: those that were not taken to their end.
  std::map<std::uint32_t, std::shared_ptr<Opening>> openings_ GUARDED_BY(mutex_);
  std::map<std::uint64_t, std::shared_ptr<Reading>> readings_ GUARDED_BY(mutex_);
  std::uint64_t next_reading_ GUARDED_BY(mutex_) = 0;
};

}  // namespace streamer
