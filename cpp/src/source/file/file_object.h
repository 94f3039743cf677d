// An open file, and the way to read its ranges.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "source/file/descriptor_cache.h"
#include "source/file/direct_io.h"
#include "source/file/file_stamp.h"
#include "source/file/file_systems.h"
#include "source/file/file_view.h"
#include "source/file/read_way.h"
#include "source/source.h"

namespace streamer {

class FileObject final : public Object {
 public:
  // Opens `path`. With `preference.only`, kUnsupported if the strategy can't be used for this file.
  static Result<std::shared_ptr<const FileObject>> open(const std::string& path,
                                                        FsPreference preference,
                                                        FileSystems& systems);

  ~FileObject() override;
  FileObject(const FileObject&) = delete;
  FileObject& operator=(const FileObject&) = delete;

  bool may_have_view() const override {
    return strategy_ == FsStrategy::kMapped || strategy_ == FsStrategy::kAuto;
  }
  // The file is mapped when its view is asked for the first time: by a worker, since that waits for
  // the others' page faults.
  std::byte* view() const override;
  bool acquire_view(std::uint64_t offset, std::uint64_t size) const override;
  std::shared_ptr<ViewMapping> mapping() const override { return view_; }
  Status detach_view(std::uint64_t offset, std::uint64_t size, std::byte* memory) const override;
  int device_fd() const override;
  void advise_read_once() const override { passing_.store(true, std::memory_order_relaxed); }
  Status unchanged() const override;

  Result<FileDescriptors::Borrowed> borrow(DescriptorKind kind) const {
    return descriptors_->borrow(kind);
  }
  // For a read at `offset` through the page cache: on shared file systems a stream.
  Result<FileDescriptors::Borrowed> borrow_for(std::uint64_t offset) const {
    return local() ? descriptors_->borrow(DescriptorKind::kShared)
                   : descriptors_->borrow_stream(offset);
  }
  bool local() const { return file_system_ == FileSystemKind::kLocal; }
  // True if direct reads are possible at all.
  bool has_direct() const;
  // The best way to read files of its file system; null: see way().
  ReadTrial* trial() const { return trial_.get(); }
  // Bytes that the kernel reads ahead by one request; set if there is a trial.
  std::uint64_t request_bytes() const { return request_bytes_; }
  // True if the page cache holds the end of the file: then the trial measures nothing.
  // (Readahead and an earlier look at the header may have brought its beginning there.)
  bool in_page_cache() const;
  // True if it must be read by its strategy or not at all.
  bool strategy_only() const { return only_; }
  // The best way to read [offset, offset + size) into memory now.
  ReadWay way(std::uint64_t offset, std::uint64_t size) const;
  // Makes a part of the view present that acquire_view() gave: 0 or an errno. See FileView.
  int populate(std::uint64_t offset, std::uint64_t size) const;
  // The alignment that direct reads need.
  DirectIo direct_io() const;
  // From now on direct_io() is the strictest alignment: the kernel refused the one that it had
  // reported.
  void distrust_direct_io() const { distrusted_.store(true, std::memory_order_relaxed); }

 private:
  class Facts;
  class PageCache;
  FileObject(std::string path, const struct stat& info,
             std::unique_ptr<FileDescriptors> descriptors, FileSystemKind kind);
  void choose(FsPreference preference, dev_t device, FileSystems& systems);
  Status check_strategy() const;
  void map() const;
  void look_at_direct() const;
  double cached_part(std::uint64_t offset, std::uint64_t size) const;

  const std::unique_ptr<FileDescriptors> descriptors_;
  const FileSystemKind file_system_;
  const FileStamp stamp_;
  FsStrategy strategy_ = FsStrategy::kBuffered;
  bool only_ = false;
  bool costly_cache_ = false;         // kAuto: see RangeFacts
  std::shared_ptr<ReadTrial> trial_;  // kAuto, on a shared file system
  std::uint64_t request_bytes_ = 0;
  bool guards_views_ = true;
  mutable std::atomic<bool> passing_{false};  // the bytes go to a device

  mutable std::once_flag view_once_;
  mutable std::shared_ptr<FileView> view_;
  mutable std::atomic<const FileView*> mapped_{nullptr};  // the same, for any thread
  mutable int view_errno_ = 0;                            // the reason if there is no view
  mutable std::atomic<bool> reported_{false};             // its change was reported
  mutable std::once_flag cached_once_;
  mutable bool cached_ = false;
  mutable std::once_flag direct_once_;
  mutable int direct_errno_ = 0;
  mutable DirectIo direct_io_;
  mutable std::atomic<bool> distrusted_{false};
  mutable std::once_flag device_once_;
  mutable std::optional<FileDescriptors::Borrowed> device_;  // stays open: a driver knows it
};

}  // namespace streamer
