// An open file, and how it is going to be read.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "source/file/file_view.h"
#include "source/source.h"

namespace streamer {

enum class FileStrategy {
  kAuto,      // what is in the page cache as views; the rest as it suits the machine
  kMapped,    // a private mapping, populated ahead; other reads go through the page cache
  kBuffered,  // through the page cache
  kDirect,    // O_DIRECT for what is not in the page cache
};

class FileObject final : public Object {
 public:
  // Opens `path`. `strategy` is the setting: auto, mapped, buffered or direct. With `only` a file
  // that can't be read so is not opened.
  static Result<std::shared_ptr<const FileObject>> open(const std::string& path,
                                                        const std::string& strategy,
                                                        bool only = false);
  ~FileObject() override;

  std::byte* view() const override { return view_ ? view_->data() : nullptr; }
  bool take_view(std::uint64_t offset, std::uint64_t size) const override;
  void drop_view(std::uint64_t offset, std::uint64_t size) const override;
  int device_fd() const override;
  void expect_passing_reads() const override { passing_.store(true, std::memory_order_relaxed); }
  Status unchanged() const override;

  int fd() const { return fd_; }
  // Whether it must be read as its strategy says or not at all.
  bool strategy_only() const { return only_; }
  // See FileView; for what take_view() gave.
  int populate(std::uint64_t offset, std::uint64_t size) const {
    // Where cold bytes go past the cache, that was found in it.
    return view_->populate(offset, size, !past_the_cache() && !mostly_cached(offset, size));
  }
  // Whether at least half of [offset, offset + size) is in the page cache.
  bool mostly_cached(std::uint64_t offset, std::uint64_t size) const;
  // A descriptor for O_DIRECT where what is not cached is better read so now; else -1.
  int direct_fd() const;

 private:
  FileObject(std::string path, std::uint64_t size, std::string version, int fd);
  void choose(const std::string& wanted);
  Status check_strategy() const;
  void open_direct() const;
  void announce();
  bool read_by_others() const;
  bool past_the_cache() const;

  int fd_;
  FileStrategy strategy_ = FileStrategy::kBuffered;
  bool only_ = false;
  std::unique_ptr<FileView> view_;
  int view_errno_ = 0;                        // why there is no view
  bool spare_cache_ = false;                  // kAuto: cold bytes are not worth the page cache
  mutable std::atomic<bool> passing_{false};  // kAuto: the same, since they go to a device
  mutable std::once_flag direct_once_;
  mutable int direct_fd_ = -1;
  mutable int direct_errno_ = 0;
  mutable std::once_flag probe_once_;
  mutable int probe_fd_ = -1;
};

// The status of a strategy that can't be used: `os_error` is 0 where it does not exist here.
Status strategy_error(const std::string& what, int os_error);

// The status of a system call on `path` that failed.
Status posix_error(const std::string& what, const std::string& path, int os_error);

}  // namespace streamer
