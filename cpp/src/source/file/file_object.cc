#include "source/file/file_object.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/memory_units.h"
#include "base/system.h"

namespace streamer {
namespace {

constexpr long kCachestat = 451;  // of all architectures
constexpr off_t kPresenceByte = off_t{1} << 62;
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

// Pages of [offset, offset + size) in the page cache, without bringing any there; -1 where the
// kernel is older than 6.5 or does not tell this user.
std::int64_t count_cached(int fd, std::uint64_t offset, std::uint64_t size) {
  struct {
    std::uint64_t offset, size;
  } range{offset, size};
  struct {
    std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } counts{};
  if (syscall(kCachestat, fd, &range, &counts, 0) != 0) return -1;
  return static_cast<std::int64_t>(counts.cached);
}

std::string version_of(const struct stat& info) {
  return std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec) + "-" +
         std::to_string(info.st_size);
}

}  // namespace

Status strategy_error(const std::string& what, int os_error) {
  Status status = Status::error(Code::kUnsupported, what);
  if (os_error != 0) status = std::move(status).with_errno(os_error);
  return std::move(status).with_hint(
      "Name a strategy to fall back to (direct,buffered), or choose auto");
}

Status posix_error(const std::string& what, const std::string& path, int os_error) {
  Code code = Code::kIo;
  const char* hint = "";
  switch (os_error) {
    case ENOENT:
    case ENOTDIR:
      code = Code::kNotFound;
      hint = "Check the path, and that the volume is mounted";
      break;
    case EACCES:
    case EPERM:
      code = Code::kPermission;
      hint = "Check the owner and the mode of the file and of the folders above it";
      break;
    case EISDIR:
      code = Code::kInvalid;
      hint = "Give a file; list_safetensors() finds those in a folder";
      break;
    case EMFILE:
    case ENFILE: hint = "Raise the limit of open files (ulimit -n)"; break;
    case ESTALE:
      code = Code::kChanged;
      hint = "The file was removed or replaced on the server";
      break;
    case ENOMEM: code = Code::kOutOfMemory; break;
    case EIO:
      hint = "The storage failed: look at the kernel's log (dmesg) and at the device";
      break;
    default: break;
  }
  return Status::error(code, what).with_path(path).with_errno(os_error).with_hint(hint);
}

bool FileObject::mostly_cached(std::uint64_t offset, std::uint64_t size) const {
  const std::int64_t pages = count_cached(fd_, offset, size);
  if (pages >= 0) return static_cast<std::uint64_t>(pages) * page_size() * 2 >= size;
  // A read that must not wait tells the truth about anybody's file, unlike mincore(), but starts
  // reading what is missing: one page of it through a descriptor without readahead.
  std::call_once(probe_once_, [this] {
    probe_fd_ = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
    if (probe_fd_ >= 0) posix_fadvise(probe_fd_, 0, 0, POSIX_FADV_RANDOM);
  });
  constexpr std::uint64_t kStep = 4 * kMiB;
  std::uint64_t cached = 0;
  std::uint64_t asked = 0;
  const std::uint64_t step = std::min(kStep, (size + 1) / 2);
  for (std::uint64_t at = step / 2; at < size; at += step) {
    char byte = 0;
    iovec segment{&byte, 1};
    ++asked;
    if (preadv2(probe_fd_, &segment, 1, static_cast<off_t>(offset + at), RWF_NOWAIT) == 1) {
      ++cached;
    }
  }
  return cached * 2 >= asked;
}

FileObject::FileObject(std::string path, std::uint64_t size, std::string version, int fd)
    : Object(std::move(path), size, std::move(version)), fd_(fd) {}

FileObject::~FileObject() {
  if (direct_fd_ >= 0) ::close(direct_fd_);
  if (probe_fd_ >= 0) ::close(probe_fd_);
  ::close(fd_);
}

Result<std::shared_ptr<const FileObject>> FileObject::open(const std::string& path,
                                                           const std::string& strategy, bool only) {
  // O_NONBLOCK: a pipe is refused below, instead of waiting for somebody to write to it.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return posix_error("cannot open the file", path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const int os_error = errno;
    ::close(fd);
    return posix_error("cannot stat the file", path, os_error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    if (S_ISDIR(info.st_mode)) return posix_error("cannot read a directory", path, EISDIR);
    return Status::error(Code::kInvalid, "not a regular file").with_path(path);
  }
  auto object = std::shared_ptr<FileObject>(
      new FileObject(path, static_cast<std::uint64_t>(info.st_size), version_of(info), fd));
  object->only_ = only;
  object->choose(strategy);
  if (only) {
    if (Status status = object->check_strategy(); !status.ok()) {
      return std::move(status).with_path(path);
    }
  }
  return std::shared_ptr<const FileObject>(std::move(object));
}

void FileObject::choose(const std::string& wanted) {
  if (size() == 0 || wanted == "buffered") return;
  if (wanted == "direct") {
    strategy_ = FileStrategy::kDirect;
    return;
  }
  if (wanted == "mapped" && only_) strategy_ = FileStrategy::kMapped;
  if (wanted == "auto") {
    if (!is_local(fd_)) return;
    strategy_ = FileStrategy::kAuto;
    spare_cache_ = usable_processors() < kProcessorsForCache || size() > available_memory() / 2;
    announce();
  }
  view_ = FileView::map(fd_, size(), &view_errno_);
  if (wanted == "mapped" && view_) strategy_ = FileStrategy::kMapped;
}

Status FileObject::check_strategy() const {
  if (strategy_ == FileStrategy::kMapped && !view_) {
    if (view_errno_ == 0) return strategy_error("the kernel can't populate a mapping", 0);
    return strategy_error("the file can't be mapped", view_errno_);
  }
  if (strategy_ == FileStrategy::kDirect && device_fd() < 0) {
    // How a file system says that it has no O_DIRECT.
    const bool none = direct_errno_ == EINVAL || direct_errno_ == EOPNOTSUPP;
    return strategy_error("the file can't be read past the page cache (O_DIRECT)",
                          none ? 0 : direct_errno_);
  }
  return {};
}

// Streams tell one another that they read a file by a shared lock on a byte far behind its end.
// Nobody waits for it; it goes with the descriptor.
void FileObject::announce() {
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = kPresenceByte;
  lock.l_len = 1;
  fcntl(fd_, F_OFD_SETLK, &lock);
}

bool FileObject::read_by_others() const {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = kPresenceByte;
  lock.l_len = 1;
  return fcntl(fd_, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// Whether bytes that are not cached should not be brought there: nobody else wants them, and they
// leave the host at once, or the processors or the memory are too few to keep the page cache at the
// speed of the device.
bool FileObject::past_the_cache() const {
  if (strategy_ == FileStrategy::kDirect) return true;
  const bool spare = spare_cache_ || passing_.load(std::memory_order_relaxed);
  return strategy_ == FileStrategy::kAuto && spare && !read_by_others();
}

bool FileObject::take_view(std::uint64_t offset, std::uint64_t size) const {
  if (!view_) return false;
  if (strategy_ != FileStrategy::kMapped && past_the_cache() && !mostly_cached(offset, size)) {
    return false;
  }
  view_->take(offset, size);
  return true;
}

void FileObject::drop_view(std::uint64_t offset, std::uint64_t size) const {
  view_->drop(offset, size);
}

int FileObject::direct_fd() const {
  if (!past_the_cache()) return -1;
  return device_fd();
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
  }
}

Status FileObject::unchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return posix_error("cannot stat the file", path(), errno);
  if (version_of(info) == version()) return {};
  return Status::error(Code::kChanged, "the file was modified while it was read")
      .with_path(path())
      .with_hint("Write a new file and rename it over the old one, then load again");
}

}  // namespace streamer
