// Keeps a mapping of a file that was truncated from ending the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace streamer {

// While a guard lives, a thread that touches a page of its mapping which the file has lost goes on
// with zeros, and the guard remembers that. The signal handler behind it exists while guards do,
// and passes every other SIGBUS to the action that was there before it. Guards work in a forked
// child, too. A thread that blocks SIGBUS is ended by the kernel all the same.
class ViewGuard {
 public:
  // Of the mapping [data, data + size), which outlives the guard. Null if the system refuses it.
  static std::unique_ptr<ViewGuard> make(std::byte* data, std::uint64_t size);
  ~ViewGuard();
  ViewGuard(const ViewGuard&) = delete;
  ViewGuard& operator=(const ViewGuard&) = delete;

  // [offset, offset + size) becomes other memory, which a fault beside it must not replace.
  void replacing(std::uint64_t offset, std::uint64_t size);
  // True if a thread was given zeros.
  bool has_lost_pages() const;

  // Puts the handler before one that the program has installed since. Cheap if there is none.
  static void renew();

  struct Mapping;

 private:
  ViewGuard(Mapping* mapping, std::unique_ptr<unsigned char[]> replaced);
  static bool install();

  Mapping* const mapping_;
  const std::unique_ptr<unsigned char[]> replaced_;
};

}  // namespace streamer
