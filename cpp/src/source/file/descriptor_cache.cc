#include "source/file/descriptor_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <new>
#include <system_error>

#include "base/clock.h"
#include "source/file/file_errors.h"

namespace streamer {
namespace {

// O_NONBLOCK: an open() of a pipe by mistake does not wait for a writer.
constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

void close_if_open(int fd) {
  if (fd >= 0) ::close(fd);
}

constexpr std::chrono::seconds kWaitForIdle{10};
// No thread is woken when a descriptor is closed instead of becoming idle.
constexpr std::chrono::milliseconds kRetry{20};

// A path that means the same when the working directory is another one.
std::string absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path found = std::filesystem::absolute(path, error);
  return error ? path : found.string();
}

Status another_file(const std::string& path) {
  return Status::error(Code::kChanged, "the file was removed or replaced while it was read")
      .with_path(path)
      .with_hint("Keep the files of a load in their places until it has ended");
}

}  // namespace

std::size_t DescriptorCache::open() const {
  const MutexLock lock(mutex_);
  return open_;
}

// Allocations are made here, before anything is opened.
DescriptorCache::Slots DescriptorCache::make_slot(DescriptorKind kind) {
  Slots slots(1);
  slots.front().kind = kind;
  slots.front().node.push_back(&slots.front());
  return slots;
}

void DescriptorCache::add_idle_locked(Slot* slot) { idle_.splice(idle_.end(), slot->node); }

void DescriptorCache::remove_idle_locked(Slot* slot) {
  slot->node.splice(slot->node.end(), idle_, std::find(idle_.begin(), idle_.end(), slot));
}

// The descriptor that the caller closes; -1: none is idle.
int DescriptorCache::take_oldest_locked() {
  if (idle_.empty()) return -1;
  Slot* const slot = idle_.front();
  remove_idle_locked(slot);
  --open_;
  if (slot->kind == DescriptorKind::kStream) --streams_;
  return std::exchange(slot->fd, -1);
}

int DescriptorCache::open_file(const std::string& path, int flags) {
  const Clock::time_point deadline = Clock::now() + kWaitForIdle;
  for (;;) {
    const int fd = ::open(path.c_str(), flags);
    if (fd >= 0 || errno != EMFILE) return fd;
    int unused = -1;
    bool none = false;
    {
      const MutexLock lock(mutex_);
      if (idle_.empty()) {
        const Clock::time_point now = Clock::now();
        none = (open_ == 0 && opening_ <= 1) || now >= deadline;
        if (!none) idle_again_.wait_until(mutex_, std::min(deadline, now + kRetry));
      }
      unused = take_oldest_locked();
    }
    close_if_open(unused);
    if (none && unused < 0) {
      errno = EMFILE;
      return -1;
    }
  }
}

FileDescriptors::FileDescriptors(std::shared_ptr<DescriptorCache> cache, std::string path,
                                 const struct stat& info)
    : kept_(std::move(cache)),
      cache_(*kept_),
      path_(absolute(path)),
      shown_path_(std::move(path)),
      info_(info) {}

FileDescriptors::~FileDescriptors() {
  if (getpid() != cache_.process_) return;
  DescriptorCache::Slots slots;
  {
    const MutexLock lock(cache_.mutex_);
    for (Slot& slot : slots_) {
      if (slot.fd < 0) continue;
      cache_.remove_idle_locked(&slot);
      --cache_.open_;
      if (slot.kind == DescriptorKind::kStream) --cache_.streams_;
    }
    slots.swap(slots_);
  }
  for (const Slot& slot : slots) close_if_open(slot.fd);
}

Result<std::unique_ptr<FileDescriptors>> FileDescriptors::open(
    std::shared_ptr<DescriptorCache> cache, const std::string& path, struct stat* info) {
  const std::shared_ptr<DescriptorCache> kept = cache;
  const DescriptorCache::Opening opening(kept.get());
  const int fd = cache->open_file(path, kFlags);
  if (fd < 0) return file_error("cannot open the file", path, errno);
  if (fstat(fd, info) != 0) {
    const int os_error = errno;
    ::close(fd);
    return file_error("cannot stat the file", path, os_error);
  }
  std::unique_ptr<FileDescriptors> made;
  DescriptorCache::Slots slots;
  try {
    slots = DescriptorCache::make_slot(DescriptorKind::kShared);
    made.reset(new FileDescriptors(std::move(cache), path, *info));
  } catch (const std::bad_alloc&) {
    ::close(fd);
    throw;
  }
  Slot* const slot = &slots.front();
  slot->fd = fd;
  slot->users = 1;
  {
    const MutexLock lock(made->cache_.mutex_);
    made->slots_.splice(made->slots_.end(), slots);
    ++made->cache_.open_;
  }
  made->give_back(slot);
  return made;
}

bool FileDescriptors::is_this(const struct stat& info) const {
  if (info.st_dev == info_.st_dev && info.st_ino == info_.st_ino) return true;
  return !by_number_ && info.st_dev == info_.st_dev && info.st_size == info_.st_size &&
         info.st_mtim.tv_sec == info_.st_mtim.tv_sec &&
         info.st_mtim.tv_nsec == info_.st_mtim.tv_nsec;
}

Result<int> FileDescriptors::open_again(DescriptorKind kind) const {
  const int flags = kind == DescriptorKind::kDirect ? kFlags | O_DIRECT : kFlags;
  const int fd = cache_.open_file(path_, flags);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return another_file(shown_path_);
    return file_error("cannot open the file", shown_path_, errno);
  }
  struct stat info {};
  if (fstat(fd, &info) != 0 || !is_this(info)) {
    ::close(fd);
    return another_file(shown_path_);
  }
  if (kind == DescriptorKind::kProbe) posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  if (kind == DescriptorKind::kShared && announcement_ != nullptr) announcement_(fd);
  return fd;
}

FileDescriptors::Slot* FileDescriptors::find_locked(DescriptorKind kind) const {
  for (Slot& slot : slots_) {
    if (slot.kind == kind && slot.fd >= 0) return &slot;
  }
  return nullptr;
}

FileDescriptors::Slot* FileDescriptors::find_stream_locked(std::uint64_t offset) const {
  Slot* found = nullptr;
  for (Slot& slot : slots_) {
    if (slot.kind != DescriptorKind::kStream || slot.fd < 0 || slot.users > 0) continue;
    if (found == nullptr || slot.position == offset) found = &slot;
  }
  return found;
}

void FileDescriptors::use_locked(Slot* slot) const {
  if (slot->users++ == 0) cache_.remove_idle_locked(slot);
}

Result<FileDescriptors::Borrowed> FileDescriptors::borrow(DescriptorKind kind) const {
  {
    const MutexLock lock(cache_.mutex_);
    if (Slot* const slot = find_locked(kind); slot != nullptr) {
      use_locked(slot);
      return Borrowed(this, slot);
    }
  }
  return lend_new(kind);
}

Result<FileDescriptors::Borrowed> FileDescriptors::borrow_stream(std::uint64_t offset) const {
  bool another = false;
  {
    const MutexLock lock(cache_.mutex_);
    if (Slot* const slot = find_stream_locked(offset); slot != nullptr) {
      use_locked(slot);
      return Borrowed(this, slot);
    }
    another = cache_.streams_ < DescriptorCache::kMostStreams;
  }
  if (another) {
    Result<Borrowed> made = lend_new(DescriptorKind::kStream);
    if (made.ok()) return made;
  }
  return borrow(DescriptorKind::kShared);
}

Result<FileDescriptors::Borrowed> FileDescriptors::lend_new(DescriptorKind kind) const {
  DescriptorCache::Slots made = DescriptorCache::make_slot(kind);
  const DescriptorCache::Opening opening(&cache_);
  const Result<int> opened = open_again(kind);
  if (!opened.ok()) return opened.status();
  int unused = -1;
  Slot* slot = nullptr;
  {
    const MutexLock lock(cache_.mutex_);
    if (kind != DescriptorKind::kStream) slot = find_locked(kind);
    if (slot != nullptr) {  // another thread was faster
      unused = *opened;
      use_locked(slot);
    } else {
      const auto closed = std::find_if(slots_.begin(), slots_.end(), [kind](const Slot& other) {
        return other.kind == kind && other.fd < 0;
      });
      if (closed == slots_.end()) slots_.splice(slots_.end(), made);
      slot = closed == slots_.end() ? &slots_.back() : &*closed;
      slot->fd = *opened;
      slot->users = 1;
      slot->position = 0;
      ++cache_.open_;
      if (kind == DescriptorKind::kStream) ++cache_.streams_;
      if (cache_.open_ > cache_.most_open_) unused = cache_.take_oldest_locked();
    }
  }
  close_if_open(unused);
  return Borrowed(this, slot);
}

void FileDescriptors::give_back(Slot* slot) const {
  int unused = -1;
  {
    const MutexLock lock(cache_.mutex_);
    if (--slot->users > 0) return;
    cache_.add_idle_locked(slot);
    cache_.idle_again_.notify_one();
    if (cache_.open_ > cache_.most_open_) unused = cache_.take_oldest_locked();
  }
  close_if_open(unused);
}

}  // namespace streamer
