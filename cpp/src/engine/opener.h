// Opening files and reading small ranges at once, for a caller that waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/memory_budget.h"
#include "engine/file_set.h"
#include "engine/reader_quota.h"
#include "engine/scheduler.h"

namespace streamer {

// How often a caller that waits is asked whether it was interrupted.
inline constexpr std::chrono::milliseconds kInterruptPoll{100};

// Thread-safe: several threads may open at the same time. The work is done by workers of the
// scheduler, as tasks.
class Opener {
 public:
  // All outlive the opener.
  Opener(const Options& options, FileSet& files, Scheduler& scheduler, const MemoryBudget& budget,
         const ReaderQuota& readers, const CancelToken& cancel)
      : options_(options),
        files_(files),
        scheduler_(scheduler),
        budget_(budget),
        readers_(readers),
        cancel_(cancel) {}

  // See Stream.
  Result<std::vector<OpenedFile>> open(const std::vector<std::string>& paths,
                                       std::uint64_t prefix_bytes,
                                       const std::vector<std::string>& versions);
  Status read(const std::vector<FileRanges>& wanted);

 private:
  class Latch;
  struct Opening;
  Status wait(Latch& latch);
  // How many workers may run tasks for the source: more, the longer a response takes.
  int width(SourceKind kind, const Source& source) const;
  void add_open(const std::shared_ptr<Opening>& work, std::size_t index);
  static Status open_one(Opening& work, std::size_t index);

  const Options& options_;
  FileSet& files_;
  Scheduler& scheduler_;
  const MemoryBudget& budget_;
  const ReaderQuota& readers_;
  const CancelToken& cancel_;
};

}  // namespace streamer
