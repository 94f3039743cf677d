#include "buffer.h"

#include <pybind11/stl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "interpreter.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

// Larger memory goes straight back to the system when it is dropped: malloc() would keep memory
// that other threads free.
constexpr std::uint64_t kMapThreshold = std::uint64_t{256} << 10;
constexpr std::uint64_t kAlignment = 64;

std::shared_ptr<void> allocate_memory(std::uint64_t size) {
  if (size < kMapThreshold) {
    const std::uint64_t capacity = (size / kAlignment + 1) * kAlignment;
    std::shared_ptr<void> memory(std::aligned_alloc(kAlignment, capacity), std::free);
    if (!memory) throw std::bad_alloc();
    return memory;
  }
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return {data, [size](void* mapped) { munmap(mapped, size); }};
}

py::buffer_info info(const Buffer& buffer) {
  return {static_cast<void*>(buffer.data()),
          1,
          py::format_descriptor<std::uint8_t>::format(),
          1,
          {static_cast<py::ssize_t>(buffer.size())},
          {1}};
}

void put(const Buffer& buffer, std::uint64_t start, std::uintptr_t address, std::uint64_t size) {
  const WithoutGil released;
  buffer.put(start, reinterpret_cast<const std::byte*>(address), size);  // NOLINT
}

}  // namespace

Buffer Buffer::allocate(const std::vector<std::uint64_t>& sizes) {
  Buffer buffer;
  buffer.positions_.reserve(sizes.size());
  buffer.sums_.reserve(sizes.size() + 1);
  buffer.sums_.push_back(0);
  for (const std::uint64_t size : sizes) {
    const std::uint64_t position = (buffer.size_ + kAlignment - 1) / kAlignment * kAlignment;
    buffer.positions_.push_back(position);
    buffer.sums_.push_back(buffer.sums_.back() + size);
    buffer.size_ = position + size;
  }
  buffer.memory_ = allocate_memory(buffer.size_);
  buffer.data_ = static_cast<std::byte*>(buffer.memory_.get());
  return buffer;
}

void Buffer::put(std::uint64_t start, const std::byte* from, std::uint64_t size) const {
  if (sums_.empty() || start > sums_.back() || size > sums_.back() - start) {
    throw std::out_of_range("the ranges of the buffer end before the bytes do");
  }
  const auto behind = std::upper_bound(sums_.begin(), sums_.end(), start);
  auto range = static_cast<std::size_t>(behind - sums_.begin()) - 1;
  for (; size > 0; ++range) {
    const std::uint64_t part = std::min(size, sums_[range + 1] - start);
    std::memcpy(data_ + positions_[range] + (start - sums_[range]), from, part);
    from += part;
    start += part;
    size -= part;
  }
}

void bind_buffer(py::module_& module) {
  py::class_<Buffer>(module, "Buffer", py::buffer_protocol(),
                     "Writable memory that holds ranges; alive until the last view dies.")
      .def_static("allocate", &Buffer::allocate, py::arg("sizes"),
                  "Memory for ranges of `sizes` bytes, each aligned to 64.")
      .def("put", &put, py::arg("start"), py::arg("address"), py::arg("size"),
           "Copies bytes at an address to where they belong in the ranges.")
      .def_property_readonly("positions", &Buffer::positions, "The start of each range.")
      .def_buffer(&info)
      .def_property_readonly("view", &Buffer::view, "True if it is the file's own pages.");
}

}  // namespace streamer::python
