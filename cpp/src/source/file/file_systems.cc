#include "source/file/file_systems.h"

#include <algorithm>

#include "base/memory_units.h"
#include "base/system.h"

namespace streamer {
namespace {

constexpr int kLocalReads = 16;
// A thread's stack, and what malloc() reserves for it.
constexpr std::uint64_t kAddressesOfAThread = 80 * kMiB;

// Threads that a quarter of the addresses is enough for.
int most_threads() {
  const std::uint64_t threads = address_space_left() / 4 / kAddressesOfAThread;
  return static_cast<int>(std::clamp<std::uint64_t>(threads, 1, ReadTrial::kMostReads));
}

}  // namespace

FileSystems::FileSystems(int fixed)
    : fixed_(fixed),
      most_reads_(fixed > 0 ? fixed : most_threads()),
      local_reads_(std::min(kLocalReads, most_reads_)),
      reads_(std::make_shared<std::atomic<int>>(fixed > 0 ? fixed : local_reads_)) {}

void FileSystems::set_reads(int reads) {
  if (fixed_ == 0) reads_->store(std::min(reads, most_reads_), std::memory_order_relaxed);
}

std::shared_ptr<ReadTrial> FileSystems::trial_of(dev_t device) {
  const MutexLock lock(mutex_);
  std::shared_ptr<ReadTrial>& trial = trials_[device];
  if (!trial) {
    trial = std::make_shared<ReadTrial>(fixed_);
    set_reads(trial->setting().reads);
  }
  return trial;
}

void FileSystems::describe(std::map<std::string, std::string>* notes) const {
  const MutexLock lock(mutex_);
  for (const auto& [device, trial] : trials_) {
    std::string& note = (*notes)["shared file system"];
    note += (note.empty() ? "" : "; ") + trial->describe();
  }
}

}  // namespace streamer
