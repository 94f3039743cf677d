// State that the files of one source share.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "source/file/descriptor_cache.h"
#include "source/file/read_trial.h"
#include "source/source.h"

namespace streamer {

// Where a file system stores its bytes.
enum class FileSystemKind {
  kLocal,   // this machine: files can't vanish from under a mapping because a server went away
  kShared,  // maybe another machine
  // A process of this machine (FUSE, virtiofs). If it hangs, a read that it has begun to serve with
  // O_DIRECT holds its thread, even against SIGKILL.
  kServedByAProcess,
};

// That of the file system of the open file `fd`.
FileSystemKind file_system_kind(int fd);

// Bytes that the kernel asks a file system for at once, by readahead.
std::uint64_t readahead_bytes(dev_t device);

// Thread-safe.
class FileSystems {
 public:
  // `fixed` above 0: so many reads at once, of any file.
  explicit FileSystems(int fixed = 0, bool guards_views = true);

  const std::shared_ptr<DescriptorCache>& descriptors() const { return descriptors_; }

  // The trial of the file system `device`, which is not local.
  std::shared_ptr<ReadTrial> trial_of(dev_t device, FileSystemKind kind) EXCLUDES(mutex_);
  // Adds the results of the trials.
  void describe(std::map<std::string, std::string>* notes) const EXCLUDES(mutex_);

  // True if views have a ViewGuard.
  bool guards_views() const { return guards_views_; }

  // Reads in flight at once, of local files.
  int local_reads() const { return local_reads_; }
  // For the file system that was read last.
  std::shared_ptr<const WantedReads> reads() const { return reads_; }
  void read_local() { want(local_reads_, /*most_bytes=*/kNoLimit); }
  void read_by(const ReadTrial& trial);

 private:
  static constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();
  void want(int reads, std::uint64_t most_bytes);

  const int fixed_;
  const bool guards_views_;
  const int most_reads_;  // as many threads as there are addresses for
  const int local_reads_;
  const std::shared_ptr<DescriptorCache> descriptors_ = std::make_shared<DescriptorCache>();
  const std::shared_ptr<WantedReads> reads_ = std::make_shared<WantedReads>();
  mutable Mutex mutex_;
  std::map<dev_t, std::shared_ptr<ReadTrial>> trials_ GUARDED_BY(mutex_);
};

}  // namespace streamer
