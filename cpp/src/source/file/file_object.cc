#include "source/file/file_object.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "base/system.h"
#include "source/file/file_errors.h"
#include "source/file/presence.h"

namespace streamer {
namespace {

// Reading into the page cache costs about 0.4 CPU seconds a GB: with fewer processors than this it
// is slower than the device.
constexpr int kProcessorsForCache = 8;

// File systems whose files can't vanish from under a mapping because a server went away.
bool is_local(int fd) {
  struct statfs info {};
  if (fstatfs(fd, &info) != 0) return false;
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
      return true;
    default: return false;
  }
}

}  // namespace

// What is known of a range. `assume_cold`: it is not in the page cache, which is not asked.
class FileObject::Facts final : public RangeFacts {
 public:
  Facts(const FileObject& file, std::uint64_t offset, std::uint64_t size, bool assume_cold)
      : file_(file), offset_(offset), size_(size), assume_cold_(assume_cold) {}
  bool cache_is_costly() const override {
    return file_.costly_cache_ || file_.passing_.load(std::memory_order_relaxed);
  }
  bool read_by_others() const override { return has_other_readers(file_.fd_); }
  bool cached() const override { return !assume_cold_ && file_.mostly_cached(offset_, size_); }

 private:
  const FileObject& file_;
  const std::uint64_t offset_;
  const std::uint64_t size_;
  const bool assume_cold_;
};

FileObject::FileObject(std::string path, const struct stat& info, int fd)
    : Object(std::move(path), static_cast<std::uint64_t>(info.st_size), FileStamp::version(info)),
      fd_(fd),
      local_(is_local(fd)),
      stamp_(info, local_),
      page_cache_(fd, this->path()) {}

FileObject::~FileObject() {
  if (direct_fd_ >= 0) ::close(direct_fd_);
  ::close(fd_);
}

Result<std::shared_ptr<const FileObject>> FileObject::open(const std::string& path,
                                                           FsPreference preference) {
  // O_NONBLOCK: a pipe is refused below, instead of waiting for somebody to write to it.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return file_error("cannot open the file", path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const int os_error = errno;
    ::close(fd);
    return file_error("cannot stat the file", path, os_error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    if (S_ISDIR(info.st_mode)) return file_error("cannot read a directory", path, EISDIR);
    return Status::error(Code::kInvalid, "not a regular file").with_path(path);
  }
  std::unique_ptr<FileObject> made;
  try {
    made.reset(new FileObject(path, info, fd));
  } catch (const std::bad_alloc&) {
    ::close(fd);  // nobody owned it
    throw;
  }
  std::shared_ptr<FileObject> object(std::move(made));
  object->only_ = preference.only;
  object->choose(preference.strategy);
  if (preference.only) {
    if (Status status = object->check_strategy(); !status.ok()) {
      return std::move(status).with_path(path);
    }
  }
  return std::shared_ptr<const FileObject>(std::move(object));
}

// The strategy of this file: the wanted one, or kBuffered if it can't be used.
void FileObject::choose(FsStrategy wanted) {
  if (size() == 0 || wanted == FsStrategy::kBuffered) return;
  if (wanted == FsStrategy::kDirect) {
    strategy_ = FsStrategy::kDirect;
    return;
  }
  if (wanted == FsStrategy::kAuto) {
    if (!local_) return;
    costly_cache_ = usable_processors() < kProcessorsForCache || size() > available_memory() / 2;
    announce_reader(fd_);
  }
  view_ = FileView::map(fd_, size(), &view_errno_);
  if (view_ || only_ || wanted == FsStrategy::kAuto) strategy_ = wanted;
}

Status FileObject::check_strategy() const {
  if (strategy_ == FsStrategy::kMapped && !view_) {
    if (view_errno_ == 0) return strategy_error("the kernel cannot populate a mapping", 0);
    return strategy_error("cannot map the file", view_errno_);
  }
  if (strategy_ == FsStrategy::kDirect && device_fd() < 0) {
    // These two mean that the file system has no O_DIRECT.
    const bool none = direct_errno_ == EINVAL || direct_errno_ == EOPNOTSUPP;
    return strategy_error("cannot read the file past the page cache (O_DIRECT)",
                          none ? 0 : direct_errno_);
  }
  return {};
}

bool FileObject::mostly_cached(std::uint64_t offset, std::uint64_t size) const {
  return page_cache_.cached_fraction(offset, size) >= 0.5;
}

ReadWay FileObject::way(std::uint64_t offset, std::uint64_t size) const {
  const ReadWay way = choose_way(strategy_, Facts(*this, offset, size, /*assume_cold=*/false));
  if (way == ReadWay::kView && !view_) return ReadWay::kBuffered;
  if (way == ReadWay::kDirect && device_fd() < 0) return ReadWay::kBuffered;
  return way;
}

bool FileObject::take_view(std::uint64_t offset, std::uint64_t size) const {
  if (!view_) return false;
  const Facts facts(*this, offset, size, /*assume_cold=*/false);
  if (choose_way(strategy_, facts) != ReadWay::kView) return false;
  view_->take(offset, size);
  return true;
}

Status FileObject::detach_view(std::uint64_t offset, std::uint64_t size, std::byte* memory) const {
  const int os_error = view_->detach(offset, size, memory);
  if (os_error == 0) return {};
  if (Status status = unchanged(); !status.ok()) return status;
  return file_error("cannot copy the file's pages that tensors still use", path(), os_error)
      .with_range(offset, size);
}

int FileObject::populate(std::uint64_t offset, std::uint64_t size) const {
  // If cold bytes are read past the cache, this range was found in it.
  const Facts if_cold(*this, offset, size, /*assume_cold=*/true);
  const bool cold =
      choose_way(strategy_, if_cold) == ReadWay::kView && !mostly_cached(offset, size);
  return view_->populate(offset, size, cold);
}

int FileObject::device_fd() const {
  std::call_once(direct_once_, [this] { open_direct(); });
  return direct_fd_;
}

void FileObject::open_direct() const {
  direct_fd_ = ::open(path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
  if (direct_fd_ < 0) {
    direct_errno_ = errno;
    return;
  }
  struct stat one {};
  struct stat other {};
  if (fstat(fd_, &one) != 0 || fstat(direct_fd_, &other) != 0 || one.st_ino != other.st_ino ||
      one.st_dev != other.st_dev) {  // replaced in between
    ::close(direct_fd_);
    direct_fd_ = -1;
    direct_errno_ = ESTALE;
    return;
  }
  direct_io_ = direct_io_of(direct_fd_);
}

DirectIo FileObject::direct_io() const {
  return distrusted_.load(std::memory_order_relaxed) ? DirectIo() : direct_io_;
}

Status FileObject::unchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return file_error("cannot stat the file", path(), errno);
  if (stamp_.matches(info, path())) return {};
  return Status::error(Code::kChanged, "the file was modified while it was read")
      .with_path(path())
      .with_hint("Write a new file and rename it over the old one, then load again");
}

}  // namespace streamer
