// Memory of the engine as a Python object.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "streamer/stream.h"

namespace streamer::python {

// Memory that holds ranges which are ready together, as a writable buffer. A user of the buffer
// keeps all of it alive.
class Buffer {
 public:
  // Takes over the memory of `ready`.
  explicit Buffer(Ready* ready)
      : data_(ready->data),
        size_(ready->data_size),
        view_(ready->view),
        positions_(ready->positions),
        memory_(std::move(ready->memory)) {}
  // Memory for ranges of `sizes` bytes, each aligned to 64. Throws std::bad_alloc.
  static Buffer allocate(const std::vector<std::uint64_t>& sizes);

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  bool view() const { return view_; }
  // The start of each range.
  const std::vector<std::uint64_t>& positions() const { return positions_; }
  // The owner of the memory. Any thread may drop it, with or without the GIL.
  const std::shared_ptr<void>& memory() const { return memory_; }
  // Copies `size` bytes at `from` to their place: `start` counts the bytes of all ranges, one
  // behind the other. Only for memory of allocate(). Throws std::out_of_range.
  void put(std::uint64_t start, const std::byte* from, std::uint64_t size) const;

 private:
  Buffer() = default;

  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  bool view_ = false;
  std::vector<std::uint64_t> positions_;
  std::vector<std::uint64_t> sums_;  // bytes of all ranges before each, and of all
  std::shared_ptr<void> memory_;
};

void bind_buffer(pybind11::module_& module);

}  // namespace streamer::python
