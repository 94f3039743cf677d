// A file's pages in the address space.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "source/file/view_guard.h"
#include "source/source.h"

namespace streamer {

// Thread-safe. Writable, since tensors are; private, so that no write reaches the file.
class FileView final : public ViewMapping {
 public:
  // Null if the file can't be mapped, with the errno, or the kernel can't populate mappings (0).
  // `guarded`: see ViewGuard.
  static std::unique_ptr<FileView> map(int fd, std::uint64_t size, bool guarded, int* os_error);
  ~FileView() override;
  FileView(const FileView&) = delete;
  FileView& operator=(const FileView&) = delete;

  std::byte* data() const { return data_; }

  // Makes [offset, offset + size) present; 0 or an errno, of which EFAULT has no specific meaning.
  // `cold`: the bytes are not in the page cache yet. They are brought there in huge pages for as
  // long as the kernel finds those without much work.
  int populate(std::uint64_t offset, std::uint64_t size, bool cold);

  // [offset, offset + size) is in use, until release_view() is called with the same. Memory goes
  // back to the system by the huge page, once no byte of it is held. A forked child may drop parts
  // that its parent took.
  void take(std::uint64_t offset, std::uint64_t size);
  void release_view(std::uint64_t offset, std::uint64_t size) override;

  // See Object::detach_view(): 0 or an errno, of which EFAULT means that the file has lost bytes.
  int detach(std::uint64_t offset, std::uint64_t size, std::byte* memory);

  // True if a thread was given zeros in the place of pages that the file has lost.
  bool has_lost_pages() const { return guard_ && guard_->has_lost_pages(); }
  // has_lost_pages() is not called any more: from now on access to such a page is a SIGBUS. Not
  // while other threads use the view but for touching it.
  void end_guard() { guard_.reset(); }

 private:
  FileView(std::byte* data, std::uint64_t size, bool guarded);
  void ask_for_huge_pages() EXCLUDES(huge_mutex_);
  void note_cost(std::uint64_t bytes, std::uint64_t nanoseconds) EXCLUDES(huge_mutex_);
  void drop_in_child(std::uint64_t offset, std::uint64_t size);

  std::byte* const data_;
  const std::uint64_t size_;
  const pid_t process_ = getpid();  // in a forked child another thread may hold a lock for ever

  std::unique_ptr<ViewGuard> guard_;

  Mutex held_mutex_;
  std::vector<std::uint32_t> held_ GUARDED_BY(held_mutex_);  // bytes of each huge page of the file

  Mutex huge_mutex_;
  bool asked_ GUARDED_BY(huge_mutex_) = false;
  std::atomic<bool> too_costly_{false};  // huge pages cost too much here
  std::uint64_t huge_bytes_ GUARDED_BY(huge_mutex_) = 0;
  std::uint64_t huge_nanoseconds_ GUARDED_BY(huge_mutex_) = 0;  // of processor time
};

}  // namespace streamer
