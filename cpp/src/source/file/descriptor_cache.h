// Descriptors of many files, of which few are open at once.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "streamer/status.h"

namespace streamer {

// The use of a descriptor.
enum class DescriptorKind {
  kShared,  // the page cache, by any number of threads at once
  kDirect,  // O_DIRECT, likewise
  kProbe,   // the page cache without readahead
  kStream,  // the page cache, by one thread at a time: it has a position of its own
};

class FileDescriptors;

// Closes the descriptor that was not used for the longest time. Those in use stay open.
// Thread-safe; the files share it.
class DescriptorCache {
 public:
  static constexpr std::size_t kMostOpen = 40;
  static constexpr std::size_t kMostStreams = 16;  // of all files

  explicit DescriptorCache(std::size_t most_open = kMostOpen) : most_open_(most_open) {}
  DescriptorCache(const DescriptorCache&) = delete;
  DescriptorCache& operator=(const DescriptorCache&) = delete;

  std::size_t open() const EXCLUDES(mutex_);

 private:
  friend class FileDescriptors;
  // A descriptor, open or not. It is idle while it is not in use.
  struct Slot {
    DescriptorKind kind = DescriptorKind::kShared;
    int fd = -1;
    int users = 0;
    std::uint64_t position = 0;  // kStream: behind the last read
    std::list<Slot*> node;       // its place among the idle ones, while it is not among them
  };
  using Slots = std::list<Slot>;
  static Slots make_slot(DescriptorKind kind);

  void add_idle_locked(Slot* slot) REQUIRES(mutex_);
  void remove_idle_locked(Slot* slot) REQUIRES(mutex_);
  int take_oldest_locked() REQUIRES(mutex_);
  // As open(2). If the process has no descriptor left, those that are idle make room; if all are in
  // use, waits for a while until one is not. Under an Opening, until the descriptor counts.
  int open_file(const std::string& path, int flags) EXCLUDES(mutex_);

  class Opening {
   public:
    explicit Opening(DescriptorCache* cache) : cache_(*cache) { count(1); }
    Opening(const Opening&) = delete;
    Opening& operator=(const Opening&) = delete;
    ~Opening() { count(-1); }

   private:
    void count(int change) EXCLUDES(cache_.mutex_) {
      const MutexLock lock(cache_.mutex_);
      cache_.opening_ += static_cast<std::size_t>(change);
    }
    DescriptorCache& cache_;
  };

  const std::size_t most_open_;
  const pid_t process_ = getpid();  // in a forked child another thread may hold the lock for ever
  mutable Mutex mutex_;
  CondVar idle_again_;
  std::list<Slot*> idle_ GUARDED_BY(mutex_);  // open, the one that was not used for longest first
  std::size_t open_ GUARDED_BY(mutex_) = 0;
  std::size_t opening_ GUARDED_BY(mutex_) = 0;  // threads whose descriptor does not count yet
  std::size_t streams_ GUARDED_BY(mutex_) = 0;
};

// The descriptors of one file. Thread-safe. It outlives borrowed descriptors.
class FileDescriptors {
 public:
  // In use as long as it lives.
  class Borrowed {
   public:
    Borrowed(Borrowed&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), slot_(other.slot_) {}
    Borrowed& operator=(Borrowed&& other) noexcept {
      std::swap(owner_, other.owner_);
      std::swap(slot_, other.slot_);
      return *this;
    }
    ~Borrowed() {
      if (owner_ != nullptr) owner_->give_back(slot_);
    }
    int fd() const { return slot_->fd; }
    // For its next use, if it is a stream: others may be in use by several threads.
    void set_position(std::uint64_t position) {
      if (slot_->kind == DescriptorKind::kStream) slot_->position = position;
    }

   private:
    friend class FileDescriptors;
    Borrowed(const FileDescriptors* owner, DescriptorCache::Slot* slot)
        : owner_(owner), slot_(slot) {}
    const FileDescriptors* owner_;
    DescriptorCache::Slot* slot_;
  };

  // Opens `path` (kShared), which later descriptors must show, too. The error is errno.
  static Result<std::unique_ptr<FileDescriptors>> open(std::shared_ptr<DescriptorCache> cache,
                                                       const std::string& path, struct stat* info);
  ~FileDescriptors();
  FileDescriptors(const FileDescriptors&) = delete;
  FileDescriptors& operator=(const FileDescriptors&) = delete;

  // `kind` other than kStream. An error of the system, or kChanged: the path is another file's now.
  Result<Borrowed> borrow(DescriptorKind kind) const;
  // A stream that stands at `offset`, else one that is not in use, else a new one; if there are too
  // many, the shared descriptor.
  Result<Borrowed> borrow_stream(std::uint64_t offset) const;

  // The file system gives a file another number when it is opened again (some FUSE mounts do): its
  // size and modification time identify it then.
  void ignore_numbers() { by_number_ = false; }
  // Called with each new kShared descriptor before it is used.
  void announce(void (*announcement)(int fd)) { announcement_ = announcement; }

 private:
  using Slot = DescriptorCache::Slot;
  FileDescriptors(std::shared_ptr<DescriptorCache> cache, std::string path,
                  const struct stat& info);
  bool is_this(const struct stat& info) const;
  Result<int> open_again(DescriptorKind kind) const;
  Result<Borrowed> lend_new(DescriptorKind kind) const;
  Slot* find_locked(DescriptorKind kind) const REQUIRES(cache_.mutex_);
  Slot* find_stream_locked(std::uint64_t offset) const REQUIRES(cache_.mutex_);
  void use_locked(Slot* slot) const REQUIRES(cache_.mutex_);
  void give_back(Slot* slot) const;

  const std::shared_ptr<DescriptorCache> kept_;
  DescriptorCache& cache_;
  const std::string path_;  // absolute
  const std::string shown_path_;
  const struct stat info_;
  bool by_number_ = true;
  void (*announcement_)(int fd) = nullptr;
  mutable DescriptorCache::Slots slots_ GUARDED_BY(cache_.mutex_);
};

}  // namespace streamer
