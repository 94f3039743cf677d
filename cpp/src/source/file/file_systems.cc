#include "source/file/file_systems.h"

#include <sys/vfs.h>

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

FileSystemKind file_system_kind(int fd) {
  struct statfs info {};
  if (fstatfs(fd, &info) != 0) return FileSystemKind::kShared;
  switch (static_cast<unsigned long>(info.f_type)) {
    case 0xEF53:      // ext2, ext3, ext4
    case 0x58465342:  // xfs
    case 0x9123683E:  // btrfs
    case 0x01021994:  // tmpfs
    case 0x858458F6:  // ramfs
    case 0x794C7630:  // overlayfs
    case 0xF2F52010:  // f2fs
    case 0x2FC12FC1:  // zfs
    case 0xCA451A4E:  // bcachefs
    case 0x73717368:  // squashfs
    case 0xE0F5E1E2:  // erofs
      return FileSystemKind::kLocal;
    case 0x65735546: return FileSystemKind::kServedByAProcess;
    default: return FileSystemKind::kShared;
  }
}

FileSystems::FileSystems(int fixed)
    : fixed_(fixed),
      most_reads_(fixed > 0 ? fixed : most_threads()),
      local_reads_(std::min(kLocalReads, most_reads_)),
      reads_(std::make_shared<std::atomic<int>>(fixed > 0 ? fixed : local_reads_)) {}

void FileSystems::set_reads(int reads) {
  if (fixed_ == 0) reads_->store(std::min(reads, most_reads_), std::memory_order_relaxed);
}

std::shared_ptr<ReadTrial> FileSystems::trial_of(dev_t device, FileSystemKind kind) {
  const MutexLock lock(mutex_);
  std::shared_ptr<ReadTrial>& trial = trials_[device];
  if (!trial) {
    trial = std::make_shared<ReadTrial>(fixed_);
    if (kind == FileSystemKind::kServedByAProcess) trial->refuse_direct();
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
