// Other memory in the place of pages that are in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/memory_units.h"

namespace streamer {

// For one thread, and for as long as one operation takes: it may hold descriptors.
class PageSwap {
 public:
  static constexpr std::uint64_t kMostBytes = 256 * kKiB;

  PageSwap();
  ~PageSwap();
  PageSwap(const PageSwap&) = delete;
  PageSwap& operator=(const PageSwap&) = delete;

  // Moves the first `*swapped` bytes of `memory`, with the content of `pages`, into the place of
  // those. Returns 0 if that is at least a page, else an errno: EFAULT if the pages are not
  // there any more. Touches `pages` by system calls only, so that such pages are no signal.
  //
  // `size` is whole pages, at most kMostBytes, private to this process and present. Other threads
  // may read them meanwhile, and write to them: a write after the copy is found by way of a second
  // reference to the pages, and copied, too. (Only if the system refuses that reference, such a
  // write may be lost.)
  int replace(std::byte* pages, std::uint64_t size, std::byte* memory, std::uint64_t* swapped);

 private:
  struct Pipe {
    int out = -1;
    int in = -1;
    bool open();
    void close();
  };
  bool refer(std::byte* pages, std::uint64_t size, std::uint64_t* referred);

  // References to pages: their content before and after they are replaced.
  Pipe copied_;
  Pipe watched_;
  bool can_refer_ = false;
  const std::unique_ptr<std::byte[]> before_;
  const std::unique_ptr<std::byte[]> after_;
};

}  // namespace streamer
