// Headers of safetensors files as Python objects.
#include <pybind11/pybind11.h>

#include <array>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert.h"
#include "interpreter.h"
#include "streamer/safetensors.h"
#include "tensor_description.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

using safetensors::Dtype;
using safetensors::Header;
using safetensors::Tensor;

py::str text_of(std::string_view text) { return {text.data(), text.size()}; }

py::str dtype_text(Dtype dtype) { return text_of(safetensors::dtype_name(dtype)); }

class Maker {
 public:
  explicit Maker(py::type type) : type_(std::move(type)) {}

  py::object make(const Tensor& tensor, const py::str& dtype) {
    return describe_tensor(type_, text_of(tensor.name), shape_of(tensor.shape), dtype, tensor.begin,
                           tensor.end);
  }

 private:
  // Tensors of the same shape share it.
  const py::object& shape_of(std::span<const std::uint64_t> shape) {
    const bool same = last_.data() == shape.data() && last_.size() == shape.size();
    if (same && last_shape_ != nullptr) return *last_shape_;
    last_ = shape;
    last_shape_ = &shapes_[std::vector<std::uint64_t>(shape.begin(), shape.end())];
    if (*last_shape_) return *last_shape_;
    py::tuple made(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) made[i] = py::int_(shape[i]);
    // Numbers need no garbage collection, which runs often while many tensors are made. The empty
    // tuple belongs to the interpreter.
    if (!shape.empty()) PyObject_GC_UnTrack(made.ptr());
    return *last_shape_ = std::move(made);
  }

  py::type type_;
  std::map<std::vector<std::uint64_t>, py::object> shapes_;
  py::object* last_shape_ = nullptr;
  std::span<const std::uint64_t> last_;
};

// The header of a file as Python objects.
struct PyHeader {
  std::uint64_t data_offset;
  py::list tensors;
  py::dict metadata;
};

// The path as an error shows it: a name that is not UTF-8 has escapes.
std::string shown_path(const py::str& path) {
  const auto bytes = py::reinterpret_steal<py::bytes>(
      PyUnicode_AsEncodedString(path.ptr(), "utf-8", "backslashreplace"));
  if (!bytes) throw py::error_already_set();
  return bytes;
}

template <typename T>
T value_of(Result<T> result, const py::str& path) {
  if (!result.ok()) raise_if_failed(result.status().with_path(shown_path(path)));
  return std::move(*result);
}

std::uint64_t header_end(const py::bytes& first_bytes, const py::str& path,
                         std::uint64_t file_size) {
  return value_of(safetensors::header_end(first_bytes, file_size), path);
}

PyHeader parse_header(const py::bytes& first_bytes, const py::str& path, std::uint64_t file_size,
                      const py::type& type) {
  const std::string_view text = first_bytes;
  const Header header = value_of(
      [&] {
        const WithoutGil released;
        return safetensors::parse_header(text, file_size);
      }(),
      path);
  std::array<py::str, safetensors::kDtypes> dtypes;
  for (std::size_t i = 0; i < dtypes.size(); ++i) dtypes[i] = dtype_text(static_cast<Dtype>(i));
  PyHeader made{header.data_offset, py::list(header.tensors.size()), py::dict()};
  Maker maker(type);
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    const Tensor& tensor = header.tensors[i];
    made.tensors[i] = maker.make(tensor, dtypes[static_cast<std::size_t>(tensor.dtype)]);
  }
  for (const auto& [key, value] : header.metadata) made.metadata[text_of(key)] = text_of(value);
  return made;
}

py::dict dtype_bits() {
  py::dict bits;
  for (std::size_t i = 0; i < safetensors::kDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    bits[dtype_text(dtype)] = safetensors::dtype_bits(dtype);
  }
  return bits;
}

}  // namespace

void bind_header(py::module_& module) {
  bind_tensor_description(module);
  py::class_<PyHeader>(module, "SafetensorsHeader")
      .def_readonly("data_offset", &PyHeader::data_offset)
      .def_readonly("tensors", &PyHeader::tensors)
      .def_readonly("metadata", &PyHeader::metadata);
  module.def("safetensors_header_end", &header_end, py::arg("first_bytes"), py::arg("path"),
             py::arg("file_size"));
  module.def("safetensors_header", &parse_header, py::arg("first_bytes"), py::arg("path"),
             py::arg("file_size"), py::arg("type"));
  module.attr("safetensors_dtype_bits") = dtype_bits();
}

}  // namespace streamer::python
