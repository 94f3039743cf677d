#include "source/file/file_view.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <memory>
#include <new>

#include "base/memory_map.h"
#include "base/memory_units.h"
#include "source/file/page_swap.h"

#ifndef MADV_POPULATE_READ  // Linux 5.14
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace streamer {
namespace {

// Reading into huge pages costs 0.01 to 0.04 CPU seconds a GB, and 1 and more if the kernel has to
// make room for them by moving other pages.
constexpr std::uint64_t kTooCostlyNanosecondsPerMiB = 300'000;
constexpr std::uint64_t kJudgedBytes = 32 * kMiB;

bool can_populate() {
  static const bool can = [] {
    std::byte* const page = map_memory(page_size());
    if (page == nullptr) return false;
    const bool works = madvise(page, page_size(), MADV_POPULATE_READ) == 0 &&
                       madvise(page, page_size(), MADV_POPULATE_WRITE) == 0;
    unmap_memory(page, page_size());
    return works;
  }();
  return can;
}

std::uint64_t thread_nanoseconds() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(used.tv_nsec);
}

// Makes the pages private to the process, and present: 0 or an errno.
int populate_private(std::byte* pages, std::uint64_t size) {
  while (madvise(pages, size, MADV_POPULATE_WRITE) != 0) {
    if (errno != EINTR && errno != EAGAIN) return errno;
  }
  return 0;
}

}  // namespace

std::unique_ptr<FileView> FileView::map(int fd, std::uint64_t size, bool guarded, int* os_error) {
  *os_error = 0;
  if (size == 0 || !can_populate()) return nullptr;
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  if (data == MAP_FAILED) {
    *os_error = errno;
    return nullptr;
  }
  try {
    return std::unique_ptr<FileView>(new FileView(static_cast<std::byte*>(data), size, guarded));
  } catch (const std::bad_alloc&) {
    unmap_memory(static_cast<std::byte*>(data), size);  // it had no owner
    throw;
  }
}

FileView::FileView(std::byte* data, std::uint64_t size, bool guarded)
    : data_(data),
      size_(size),
      guard_(guarded ? ViewGuard::make(data, size) : nullptr),
      held_(round_up(size, kHugePage) / kHugePage) {}

FileView::~FileView() {
  guard_.reset();
  unmap_memory(data_, size_);
}

int FileView::populate(std::uint64_t offset, std::uint64_t size, bool cold) {
  const std::uint64_t start = round_down(offset, page_size());
  const bool huge = cold && !too_costly_.load(std::memory_order_relaxed);
  if (huge) ask_for_huge_pages();
  const std::uint64_t before = huge ? thread_nanoseconds() : 0;
  const int result = madvise(data_ + start, offset + size - start, MADV_POPULATE_READ);
  const int os_error = result == 0 ? 0 : errno;
  if (huge) note_cost(size, thread_nanoseconds() - before);
  return os_error;
}

void FileView::ask_for_huge_pages() {
  const MutexLock lock(huge_mutex_);
  if (asked_) return;
  asked_ = true;
  madvise(data_, size_, MADV_HUGEPAGE);
}

void FileView::note_cost(std::uint64_t bytes, std::uint64_t nanoseconds) {
  const MutexLock lock(huge_mutex_);
  huge_bytes_ += bytes;
  huge_nanoseconds_ += nanoseconds;
  if (huge_bytes_ < kJudgedBytes) return;
  if (!too_costly_ && huge_nanoseconds_ > huge_bytes_ / kMiB * kTooCostlyNanosecondsPerMiB) {
    too_costly_ = true;
    madvise(data_, size_, MADV_NOHUGEPAGE);
  }
  huge_bytes_ = huge_nanoseconds_ = 0;
}

void FileView::take(std::uint64_t offset, std::uint64_t size) {
  const MutexLock lock(held_mutex_);
  for (std::uint64_t at = offset; at < offset + size;) {
    const std::uint64_t end = std::min((at / kHugePage + 1) * kHugePage, offset + size);
    held_[at / kHugePage] += static_cast<std::uint32_t>(end - at);
    at = end;
  }
}

// The pages that no other range shares, of a process in which the lock may be held for ever.
void FileView::drop_in_child(std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t start = round_up(offset, page_size());
  const std::uint64_t end = round_down(offset + size, page_size());
  if (start < end) madvise(data_ + start, end - start, MADV_DONTNEED);
}

void FileView::release_view(std::uint64_t offset, std::uint64_t size) {
  if (getpid() != process_) return drop_in_child(offset, size);
  // Held while the memory goes: no thread can get a part of it in between.
  const MutexLock lock(held_mutex_);
  std::uint64_t free_start = 0;
  std::uint64_t free_end = 0;
  for (std::uint64_t at = offset; at < offset + size;) {
    const std::uint64_t page = at / kHugePage;
    const std::uint64_t end = std::min((page + 1) * kHugePage, offset + size);
    held_[page] -= static_cast<std::uint32_t>(end - at);
    if (held_[page] == 0) {
      if (free_end == 0) free_start = page * kHugePage;
      free_end = std::min((page + 1) * kHugePage, size_);
    }
    at = end;
  }
  // Pages in the middle of a range are always free, so the free pages are consecutive.
  if (free_start < free_end) madvise(data_ + free_start, free_end - free_start, MADV_DONTNEED);
}

// Private pages of a mapping of a file go when the file is truncated, even if they were written to.
// Hence the mapping itself is replaced.
int FileView::detach(std::uint64_t offset, std::uint64_t size, std::byte* memory) {
  if (guard_) guard_->replacing(offset, size);
  PageSwap swap;
  std::uint64_t done = 0;
  int os_error = 0;
  while (done < size && os_error == 0) {
    std::byte* const pages = data_ + offset + done;
    const std::uint64_t part = std::min(size - done, PageSwap::kMostBytes);
    os_error = populate_private(pages, part);
    std::uint64_t swapped = 0;
    if (os_error == 0) os_error = swap.replace(pages, part, memory + done, &swapped);
    done += swapped;
  }
  unmap_memory(memory + done, size - done);
  return os_error;
}

}  // namespace streamer
