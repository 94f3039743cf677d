#include "source/file/page_swap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace streamer {
namespace {

// Reads `size` bytes that a pipe holds.
bool read_all(int fd, std::byte* to, std::uint64_t size) {
  while (size > 0) {
    const ssize_t got = ::read(fd, to, size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= static_cast<std::uint64_t>(got);
  }
  return true;
}

// Puts into `now` the bytes of `late` that differ from `before`, unless another one was written
// there meanwhile.
std::uint64_t merge(std::uint64_t now, std::uint64_t before, std::uint64_t late) {
  std::uint64_t merged = now;
  for (int shift = 0; shift < 64; shift += 8) {
    const std::uint64_t byte = std::uint64_t{0xFF} << shift;
    if ((before & byte) != (late & byte) && (now & byte) == (before & byte)) {
      merged = (merged & ~byte) | (late & byte);
    }
  }
  return merged;
}

// Writes the bytes that changed from `before` to `late` to `pages`, which other threads write to.
void add_late_writes(std::byte* pages, const std::byte* before, const std::byte* late,
                     std::uint64_t size) {
  if (std::memcmp(before, late, size) == 0) return;
  for (std::uint64_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    std::uint64_t old = 0;
    std::uint64_t written = 0;
    std::memcpy(&old, before + at, sizeof(old));
    std::memcpy(&written, late + at, sizeof(written));
    if (old == written) continue;
    auto* const word = reinterpret_cast<std::uint64_t*>(pages + at);
    std::uint64_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &now, merge(now, old, written), /*weak=*/true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }
}

// Copies bytes of this process: 0 or an errno. Unlike memcpy() it survives pages that went away.
int copy_guarded(std::byte* from, std::uint64_t size, std::byte* to) {
  for (std::uint64_t done = 0; done < size;) {
    const iovec source{from + done, size - done};
    const iovec target{to + done, size - done};
    const ssize_t copied = process_vm_readv(getpid(), &target, 1, &source, 1, 0);
    if (copied <= 0) return copied < 0 ? errno : EFAULT;
    done += static_cast<std::uint64_t>(copied);
  }
  return 0;
}

}  // namespace

bool PageSwap::Pipe::open() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  out = ends[0];
  in = ends[1];
  fcntl(in, F_SETPIPE_SZ, static_cast<int>(kMostBytes));  // as much as the system allows
  return true;
}

void PageSwap::Pipe::close() {
  if (in >= 0) ::close(in);
  if (out >= 0) ::close(out);
  in = out = -1;
}

PageSwap::PageSwap()
    : before_(std::make_unique_for_overwrite<std::byte[]>(kMostBytes)),
      after_(std::make_unique_for_overwrite<std::byte[]>(kMostBytes)) {
  can_refer_ = copied_.open() && watched_.open();
}

PageSwap::~PageSwap() {
  copied_.close();
  watched_.close();
}

// Both pipes hold references to the first `*referred` bytes of the pages.
bool PageSwap::refer(std::byte* pages, std::uint64_t size, std::uint64_t* referred) {
  const iovec segment{pages, size};
  const ssize_t spliced = vmsplice(copied_.in, &segment, 1, 0);
  if (spliced <= 0) return false;
  *referred = static_cast<std::uint64_t>(spliced);
  return tee(copied_.out, watched_.in, *referred, 0) == spliced;
}

int PageSwap::replace(std::byte* pages, std::uint64_t size, std::byte* memory,
                      std::uint64_t* swapped) {
  std::uint64_t referred = 0;
  bool watches = can_refer_ && refer(pages, size, &referred);
  const bool whole = referred > 0 && is_aligned(referred, page_size());
  if (watches && whole && read_all(copied_.out, memory, referred)) {
    size = referred;
    std::memcpy(before_.get(), memory, size);
  } else {
    watches = can_refer_ = false;  // pipes in an unknown state are not used again
    if (const int os_error = copy_guarded(pages, size, memory); os_error != 0) return os_error;
  }
  if (mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, pages) == MAP_FAILED) return errno;
  *swapped = size;
  if (watches && read_all(watched_.out, after_.get(), size)) {
    add_late_writes(pages, before_.get(), after_.get(), size);
  }
  return 0;
}

}  // namespace streamer
