#include "source/file/file_systems.h"

#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <fstream>

#include "base/memory_units.h"
#include "base/system.h"

namespace streamer {
namespace {

constexpr int kLocalReads = 16;
constexpr std::uint64_t kFirstBytes = kMiB;       // of one read, while small ones are tried
constexpr std::uint64_t kReadahead = 128 * kKiB;  // the kernel's default
// A thread's stack, and the part that malloc() reserves for it.
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

std::uint64_t readahead_bytes(dev_t device) {
  const std::string id = std::to_string(major(device)) + ":" + std::to_string(minor(device));
  std::ifstream file("/sys/class/bdi/" + id + "/read_ahead_kb");
  std::uint64_t kib = 0;
  return file >> kib && kib > 0 ? kib * kKiB : kReadahead;
}

FileSystems::FileSystems(int fixed, bool guards_views)
    : fixed_(fixed),
      guards_views_(guards_views),
      most_reads_(fixed > 0 ? fixed : most_threads()),
      local_reads_(std::min(kLocalReads, most_reads_)) {
  reads_->number = fixed > 0 ? fixed : local_reads_;
}

void FileSystems::want(int reads, std::uint64_t most_bytes) {
  if (fixed_ > 0) return;
  reads_->number.store(std::min(reads, most_reads_), std::memory_order_relaxed);
  reads_->most_bytes.store(most_bytes, std::memory_order_relaxed);
}

void FileSystems::read_by(const ReadTrial& trial) {
  const ReadTrial::Amount amount = trial.amount();
  want(amount.reads, amount.small ? kFirstBytes : kNoLimit);
}

std::shared_ptr<ReadTrial> FileSystems::trial_of(dev_t device, FileSystemKind kind) {
  const MutexLock lock(mutex_);
  std::shared_ptr<ReadTrial>& trial = trials_[device];
  if (!trial) {
    trial = std::make_shared<ReadTrial>(fixed_);
    if (kind == FileSystemKind::kServedByAProcess) trial->refuse_direct();
    read_by(*trial);
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
