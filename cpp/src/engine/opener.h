// Opening files and reading small ranges at once, for a caller that waits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "engine/file_set.h"
#include "engine/scheduler.h"

namespace streamer {

// How often a caller that waits is asked whether it was interrupted.
inline constexpr std::chrono::milliseconds kInterruptPoll{100};

// Thread-safe: several threads may open at the same time. The work is done by workers of the
// scheduler, as tasks.
class Opener {
 public:
  // All outlive the opener.
  Opener(const Options& options, FileSet& files, Scheduler& scheduler, const CancelToken& cancel)
      : options_(options), files_(files), scheduler_(scheduler), cancel_(cancel) {}

  // See Stream.
  Result<std::vector<OpenedFile>> open(const std::vector<std::string>& paths,
                                       std::uint64_t prefix_bytes,
                                       const std::vector<std::string>& versions);
  Status read(const std::vector<FileRanges>& wanted);

 private:
  class Latch;
  Status wait(Latch& latch);
  // How many workers may run tasks for the source.
  int width(SourceKind kind, const Source& source) const;

  const Options& options_;
  FileSet& files_;
  Scheduler& scheduler_;
  const CancelToken& cancel_;
};

}  // namespace streamer
