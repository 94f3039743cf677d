#include "source/file/file_object.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "base/memory_units.h"
#include "base/system.h"
#include "source/file/file_errors.h"
#include "source/file/page_cache.h"
#include "source/file/presence.h"

namespace streamer {
namespace {

// Reading into the page cache costs about 0.4 CPU seconds a GB: with fewer processors than this it
// is slower than the device.
constexpr int kProcessorsForCache = 8;
// The part of a range that is "cached" if at least so much of it is.
constexpr double kMostly = 0.5;
// Under a limit of the address space: the part that threads and memory of the engine take.
constexpr std::uint64_t kOtherAddresses = 256 * kMiB;

}  // namespace

// The facts of a range that becomes a view, or is read into memory.
class FileObject::Facts final : public RangeFacts {
 public:
  enum class As { kView, kColdView, kMemory };  // kColdView: as if it were not in the page cache
  Facts(const FileObject& file, std::uint64_t offset, std::uint64_t size, As as)
      : file_(file), offset_(offset), size_(size), as_(as) {}
  // Bytes that are copied into memory would occupy it twice.
  bool cache_is_costly() const override {
    return as_ == As::kMemory || file_.costly_cache_ ||
           file_.passing_.load(std::memory_order_relaxed);
  }
  bool read_by_others() const override {
    const auto shared = file_.borrow(DescriptorKind::kShared);
    return shared.ok() && has_other_readers(shared->fd());
  }
  bool cached() const override {
    return as_ != As::kColdView && file_.cached_part(offset_, size_) >= kMostly;
  }

 private:
  const FileObject& file_;
  const std::uint64_t offset_;
  const std::uint64_t size_;
  const As as_;
};

class FileObject::PageCache final : public PageCacheDescriptors {
 public:
  explicit PageCache(const FileObject& file)
      : file_(file), plain_(file.borrow(DescriptorKind::kShared)) {}
  int plain() override { return plain_.ok() ? plain_->fd() : -1; }
  int without_readahead() override {
    auto probe = file_.borrow(DescriptorKind::kProbe);
    if (!probe.ok()) return -1;
    return probe_.emplace(std::move(*probe)).fd();
  }

 private:
  const FileObject& file_;
  Result<FileDescriptors::Borrowed> plain_;
  std::optional<FileDescriptors::Borrowed> probe_;
};

FileObject::FileObject(std::string path, const struct stat& info,
                       std::unique_ptr<FileDescriptors> descriptors, FileSystemKind kind)
    : Object(std::move(path), static_cast<std::uint64_t>(info.st_size), FileStamp::version(info)),
      descriptors_(std::move(descriptors)),
      file_system_(kind),
      stamp_(info, local()) {}

Result<std::shared_ptr<const FileObject>> FileObject::open(const std::string& path,
                                                           FsPreference preference,
                                                           FileSystems& systems) {
  struct stat info {};
  auto opened = FileDescriptors::open(systems.descriptors(), path, &info);
  if (!opened.ok()) return opened.status();
  if (!S_ISREG(info.st_mode)) {
    if (S_ISDIR(info.st_mode)) return file_error("cannot read a directory", path, EISDIR);
    return Status::error(Code::kInvalid, "not a regular file").with_path(path);
  }
  FileSystemKind kind = FileSystemKind::kShared;
  if (const auto shared = (*opened)->borrow(DescriptorKind::kShared); shared.ok()) {
    kind = file_system_kind(shared->fd());
  }
  if (kind != FileSystemKind::kLocal) (*opened)->ignore_numbers();
  auto object = std::shared_ptr<FileObject>(new FileObject(path, info, std::move(*opened), kind));
  object->choose(preference, info.st_dev, systems);
  if (preference.only) {
    if (Status status = object->check_strategy(); !status.ok()) {
      return std::move(status).with_path(path);
    }
  }
  return std::shared_ptr<const FileObject>(std::move(object));
}

// A fault that no call would report stays a signal.
FileObject::~FileObject() {
  if (view_ && !reported_) view_->end_guard();
}

// The strategy of this file: the wanted one, or kBuffered if it can't be used.
void FileObject::choose(FsPreference preference, dev_t device, FileSystems& systems) {
  only_ = preference.only;
  guards_views_ = systems.guards_views();
  if (size() == 0) return;
  if (preference.strategy != FsStrategy::kAuto) {
    strategy_ = preference.strategy;
    return;
  }
  if (!local()) {
    trial_ = systems.trial_of(device, file_system_);
    request_bytes_ = readahead_bytes(device);
    return;
  }
  strategy_ = FsStrategy::kAuto;
  costly_cache_ = usable_processors() < kProcessorsForCache || size() > available_memory() / 2;
  descriptors_->announce(announce_reader);
  if (const auto shared = borrow(DescriptorKind::kShared); shared.ok()) {
    announce_reader(shared->fd());
  }
}

Status FileObject::check_strategy() const {
  if (strategy_ == FsStrategy::kMapped && view() == nullptr) {
    if (view_errno_ == 0) return strategy_error("the kernel cannot populate a mapping", 0);
    return strategy_error("cannot map the file", view_errno_);
  }
  if (strategy_ == FsStrategy::kDirect && !has_direct()) {
    // These two mean that the file system has no O_DIRECT.
    const bool none = direct_errno_ == EINVAL || direct_errno_ == EOPNOTSUPP;
    return strategy_error("cannot read the file past the page cache (O_DIRECT)",
                          none ? 0 : direct_errno_);
  }
  return {};
}

std::byte* FileObject::view() const {
  std::call_once(view_once_, [this] { map(); });
  return view_ ? view_->data() : nullptr;
}

void FileObject::map() const {
  if (!may_have_view()) return;
  const bool roomy = address_space_left() / 2 > size() + kOtherAddresses;
  if (strategy_ == FsStrategy::kAuto && !roomy) return;  // kept views need its size again
  try {
    const auto shared = borrow(DescriptorKind::kShared);
    if (!shared.ok()) {
      view_errno_ = shared.status().detail().os_error;
      return;
    }
    view_ = FileView::map(shared->fd(), size(), guards_views_, &view_errno_);
    mapped_.store(view_.get(), std::memory_order_release);
  } catch (const std::bad_alloc&) {  // the file is read instead
    view_errno_ = ENOMEM;
  }
}

double FileObject::cached_part(std::uint64_t offset, std::uint64_t size) const {
  PageCache pages(*this);
  return cached_fraction(pages, offset, size);
}

bool FileObject::in_page_cache() const {
  std::call_once(cached_once_, [this] {
    const std::uint64_t middle = size() / 2;
    cached_ = cached_part(middle, size() - middle) >= kMostly;
  });
  return cached_;
}

ReadWay FileObject::way(std::uint64_t offset, std::uint64_t size) const {
  const ReadWay way = choose_way(strategy_, Facts(*this, offset, size, Facts::As::kMemory));
  const bool direct = way == ReadWay::kDirect && has_direct();
  return direct ? ReadWay::kDirect : ReadWay::kBuffered;
}

bool FileObject::acquire_view(std::uint64_t offset, std::uint64_t size) const {
  if (view() == nullptr) return false;
  const Facts facts(*this, offset, size, Facts::As::kView);
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
  const Facts if_cold(*this, offset, size, Facts::As::kColdView);
  const bool cold =
      choose_way(strategy_, if_cold) == ReadWay::kView && cached_part(offset, size) < kMostly;
  return view_->populate(offset, size, cold);
}

bool FileObject::has_direct() const {
  std::call_once(direct_once_, [this] { look_at_direct(); });
  return direct_errno_ == 0;
}

void FileObject::look_at_direct() const {
  const auto direct = borrow(DescriptorKind::kDirect);
  if (direct.ok()) {
    direct_io_ = direct_io_of(direct->fd());
    return;
  }
  const int os_error = direct.status().detail().os_error;
  direct_errno_ = os_error != 0 ? os_error : ESTALE;  // another file has its name now
}

int FileObject::device_fd() const {
  std::call_once(device_once_, [this] {
    if (auto direct = borrow(DescriptorKind::kDirect); direct.ok()) device_ = std::move(*direct);
  });
  return device_ ? device_->fd() : -1;
}

DirectIo FileObject::direct_io() const {
  return distrusted_.load(std::memory_order_relaxed) ? DirectIo() : direct_io_;
}

Status FileObject::unchanged() const {
  const auto shared = borrow(DescriptorKind::kShared);
  if (!shared.ok()) return shared.status();
  struct stat info {};
  if (fstat(shared->fd(), &info) != 0) return file_error("cannot stat the file", path(), errno);
  if (stamp_.matches(info, path())) {
    const FileView* const view = mapped_.load(std::memory_order_acquire);
    if (view == nullptr || !view->has_lost_pages()) return {};
    reported_ = true;
    return file_error("the storage has lost bytes that tensors showed", path(), EIO);
  }
  reported_ = true;
  return Status::error(Code::kChanged, "the file was modified while it was read")
      .with_path(path())
      .with_hint("Write a new file and rename it over the old one, then load again");
}

}  // namespace streamer
