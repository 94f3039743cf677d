// An open file, and how its ranges are read.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "source/file/direct_io.h"
#include "source/file/file_stamp.h"
#include "source/file/file_view.h"
#include "source/file/page_cache.h"
#include "source/file/read_way.h"
#include "source/source.h"

namespace streamer {

class FileObject final : public Object {
 public:
  // Opens `path`. With `preference.only`, kUnsupported if the strategy can't be used for this file.
  static Result<std::shared_ptr<const FileObject>> open(const std::string& path,
                                                        FsPreference preference);
  ~FileObject() override;

  std::byte* view() const override { return view_ ? view_->data() : nullptr; }
  bool take_view(std::uint64_t offset, std::uint64_t size) const override;
  std::shared_ptr<ViewMapping> mapping() const override { return view_; }
  Status detach_view(std::uint64_t offset, std::uint64_t size, std::byte* memory) const override;
  int device_fd() const override;
  void expect_passing_reads() const override { passing_.store(true, std::memory_order_relaxed); }
  Status unchanged() const override;

  int fd() const { return fd_; }
  // Whether it must be read by its strategy or not at all.
  bool strategy_only() const { return only_; }
  // How [offset, offset + size) is best read now.
  ReadWay way(std::uint64_t offset, std::uint64_t size) const;
  // Makes a part of the view present that take_view() gave: 0 or an errno. See FileView.
  int populate(std::uint64_t offset, std::uint64_t size) const;
  // What reads by device_fd() need.
  DirectIo direct_io() const;
  // From now on direct_io() is the strictest alignment: the kernel refused what it had told.
  void distrust_direct_io() const { distrusted_.store(true, std::memory_order_relaxed); }

 private:
  class Facts;
  FileObject(std::string path, const struct stat& info, int fd);
  void choose(FsStrategy wanted);
  Status check_strategy() const;
  void open_direct() const;
  bool mostly_cached(std::uint64_t offset, std::uint64_t size) const;

  const int fd_;
  const bool local_;  // the file system is no other machine's
  const FileStamp stamp_;
  const PageCacheProbe page_cache_;
  FsStrategy strategy_ = FsStrategy::kBuffered;
  bool only_ = false;
  std::shared_ptr<FileView> view_;
  int view_errno_ = 0;                        // why there is no view
  bool costly_cache_ = false;                 // kAuto: see RangeFacts
  mutable std::atomic<bool> passing_{false};  // the bytes go to a device
  mutable std::once_flag direct_once_;
  mutable int direct_fd_ = -1;
  mutable int direct_errno_ = 0;
  mutable DirectIo direct_io_;
  mutable std::atomic<bool> distrusted_{false};
};

}  // namespace streamer
