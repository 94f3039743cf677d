// plain_header(): a parsed header as the objects that Python works with.
#include <pybind11/pybind11.h>

#include "convert.h"
#include "safetensors/plain_header.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

using safetensors::Dtype;
using safetensors::PlainHeader;
using safetensors::PlainTensor;

py::object ascii(std::string_view text) {
  PyObject* made = PyUnicode_New(static_cast<Py_ssize_t>(text.size()), 127);
  if (made == nullptr) throw py::error_already_set();
  std::copy(text.begin(), text.end(), static_cast<char*>(PyUnicode_DATA(made)));
  return py::reinterpret_steal<py::object>(made);
}

// The collector need not look at what holds only text and numbers: it would, again and again,
// while many tensors are made.
void untrack(const py::object& object) { PyObject_GC_UnTrack(object.ptr()); }

class Maker {
 public:
  explicit Maker(const py::type& type)
      : type_(reinterpret_cast<PyTypeObject*>(type.ptr())),
        name_("name"),
        shape_("shape"),
        dtype_("dtype"),
        start_("start"),
        end_("end") {}

  py::object make(const PlainTensor& tensor, const PlainHeader& header, const py::object& dtype) {
    auto made = py::reinterpret_steal<py::object>(type_->tp_alloc(type_, 0));
    if (!made) throw py::error_already_set();
    py::setattr(made, name_, ascii(tensor.name));
    py::setattr(made, shape_, shape_of(tensor, header));
    py::setattr(made, dtype_, dtype);
    py::setattr(made, start_, py::int_(tensor.start));
    py::setattr(made, end_, py::int_(tensor.end));
    untrack(made);
    return made;
  }

 private:
  // Neighbours often have the same.
  const py::tuple& shape_of(const PlainTensor& tensor, const PlainHeader& header) {
    const std::uint64_t* dimensions = header.dimensions.data() + tensor.first_dimension;
    if (last_ != nullptr && last_rank_ == tensor.rank &&
        std::equal(dimensions, dimensions + tensor.rank, last_)) {
      return last_shape_;
    }
    last_shape_ = py::tuple(tensor.rank);
    for (std::uint32_t i = 0; i < tensor.rank; ++i) last_shape_[i] = py::int_(dimensions[i]);
    if (tensor.rank > 0) untrack(last_shape_);  // () belongs to the interpreter
    last_ = dimensions;
    last_rank_ = tensor.rank;
    return last_shape_;
  }

  PyTypeObject* type_;
  py::str name_, shape_, dtype_, start_, end_;
  py::tuple last_shape_;
  const std::uint64_t* last_ = nullptr;
  std::uint32_t last_rank_ = 0;
};

// (tensors, metadata), or None. `bits` maps the dtypes' names to bits; `type` makes a tensor's
// description: its attributes are name, shape, dtype, start and end.
py::object plain_header(const py::bytes& blob, std::uint64_t data_size, const py::dict& bits,
                        const py::type& type) {
  std::vector<Dtype> dtypes;
  std::vector<py::object> dtype_names;
  for (const auto& [name, count] : bits) {
    dtypes.emplace_back(name.cast<std::string_view>(), count.cast<std::uint32_t>());
    dtype_names.push_back(py::reinterpret_borrow<py::object>(name));
  }
  const std::string_view text = blob;
  const auto header = [&] {
    const py::gil_scoped_release release;
    return safetensors::parse_plain_header(text, data_size, dtypes);
  }();
  if (!header) return py::none();
  py::list tensors(header->tensors.size());
  Maker maker(type);
  for (std::size_t i = 0; i < header->tensors.size(); ++i) {
    const PlainTensor& tensor = header->tensors[i];
    tensors[i] = maker.make(tensor, *header, dtype_names[tensor.dtype]);
  }
  py::dict metadata;
  for (const auto& [key, value] : header->metadata) metadata[ascii(key)] = ascii(value);
  return py::make_tuple(tensors, metadata);
}

}  // namespace

void bind_header(py::module_& module) {
  module.def("plain_header", &plain_header, py::arg("blob"), py::arg("data_size"), py::arg("bits"),
             py::arg("type"),
             "Tensors and metadata of a common safetensors header; None for any other.");
}

}  // namespace streamer::python
