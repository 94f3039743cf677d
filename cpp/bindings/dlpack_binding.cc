// Tensors over the memory of the engine, each with a storage of its own, which is exactly as large
// as the tensor.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "buffer.h"
#include "convert.h"
#include "dlpack.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

// A tensor that is not taken yet, or that is in use. Its shape and strides follow it.
struct Exported {
  dlpack::ManagedTensor managed;
  std::shared_ptr<void> memory;
};

// Called by any thread, with or without the GIL.
void free_exported(dlpack::ManagedTensor* managed) {
  auto* exported = static_cast<Exported*>(managed->context);
  exported->~Exported();
  std::free(exported);
}

void free_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, dlpack::kCapsuleName) == 0) return;  // the tensor was taken
  void* const managed = PyCapsule_GetPointer(capsule, dlpack::kCapsuleName);
  free_exported(static_cast<dlpack::ManagedTensor*>(managed));
}

py::object get_attribute(const py::object& object, const py::str& name) {
  PyObject* const value = PyObject_GetAttr(object.ptr(), name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// Writes the sizes of `shape`, a tuple, and the strides of a contiguous tensor. Returns the number
// of its elements. `packed` elements of the last dimension are one element of torch.
std::int64_t write_shape(PyObject* shape, std::int64_t packed, std::int64_t* sizes,
                         std::int64_t* strides) {
  const Py_ssize_t rank = PyTuple_GET_SIZE(shape);
  std::int64_t elements = 1;
  for (Py_ssize_t i = rank - 1; i >= 0; --i) {
    std::int64_t size = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
    if (size == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (i == rank - 1) size /= packed;
    sizes[i] = size;
    strides[i] = elements;
    elements *= size;
  }
  return elements;
}

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

class TensorFactory {
 public:
  // take(capsule) returns a tensor; make_empty(name of the type, shape) one without elements. If it
  // is None, take() gets those, too.
  TensorFactory(py::object take, py::object make_empty)
      : take_(std::move(take)),
        make_empty_(std::move(make_empty)),
        name_("name"),
        shape_("shape"),
        type_("dtype") {}

  // `packed` elements of the format are one element of torch. If `convert` is not None, take()
  // gets flat bytes, and convert(bytes, shape) makes the tensor of them.
  void add_type(const std::string& name, int code, int bits, int lanes, std::int64_t packed,
                const py::object& convert) {
    Type& type = types_[name];
    type.type = {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits),
                 static_cast<std::uint16_t>(lanes)};
    type.packed = packed;
    type.convert = convert;
    last_ = nullptr;
  }

  // The tensor of `shape` that starts at `position` of `buffer`.
  py::object tensor(const Buffer& buffer, std::uint64_t position, const py::str& type,
                    const py::tuple& shape) {
    return make(buffer, position, type, shape);
  }

  // (name, tensor) of each range of `buffer`, the last one first, so that a consumer can pop them.
  // The ranges are described by descriptions[first], descriptions[first + 1], ...
  py::list tensors(const Buffer& buffer, const py::list& descriptions, std::size_t first) {
    const std::size_t count = buffer.positions().size();
    if (first > descriptions.size() || count > descriptions.size() - first) {
      throw py::index_error("a range has no description");
    }
    py::list made(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto description = py::reinterpret_borrow<py::object>(
          PyList_GET_ITEM(descriptions.ptr(), static_cast<Py_ssize_t>(first + i)));
      const py::object tensor =
          make(buffer, buffer.positions()[i], get_attribute(description, type_),
               get_attribute(description, shape_));
      const py::object name = get_attribute(description, name_);
      PyObject* const pair = PyTuple_Pack(2, name.ptr(), tensor.ptr());
      if (pair == nullptr) throw py::error_already_set();
      PyList_SET_ITEM(made.ptr(), static_cast<Py_ssize_t>(count - 1 - i), pair);
    }
    return made;
  }

 private:
  struct Type {
    dlpack::DataType type{};
    std::int64_t packed = 1;
    py::object convert;
  };

  const Type& find(const py::object& name) {
    if (last_ == nullptr || !name.is(last_name_)) {  // consecutive tensors often have the same
      const auto found = types_.find(name.cast<std::string>());
      if (found == types_.end()) throw py::key_error(name.cast<std::string>());
      last_ = &found->second;
      last_name_ = name;
    }
    return *last_;
  }

  py::object make(const Buffer& buffer, std::uint64_t position, const py::object& type_name,
                  const py::object& shape) {
    const Type& type = find(type_name);
    if (!PyTuple_Check(shape.ptr())) throw py::type_error("a shape is a tuple");
    const auto rank = static_cast<std::int32_t>(PyTuple_GET_SIZE(shape.ptr()));
    const auto dimensions = std::max<std::size_t>(1, static_cast<std::size_t>(rank));
    std::unique_ptr<void, FreeMemory> raw(
        std::malloc(sizeof(Exported) + 2 * dimensions * sizeof(std::int64_t)));
    if (!raw) throw std::bad_alloc();
    auto* const sizes =
        reinterpret_cast<std::int64_t*>(static_cast<char*>(raw.get()) + sizeof(Exported));
    std::int64_t* const strides = sizes + dimensions;
    const std::int64_t elements = write_shape(shape.ptr(), type.packed, sizes, strides);
    if (elements == 0 && !make_empty_.is_none()) return make_empty_(type_name, shape);
    dlpack::Tensor tensor{
        buffer.data() + position, {dlpack::kCpu, 0}, rank, type.type, sizes, strides, 0};
    const auto bytes = static_cast<std::uint64_t>(elements) * type.type.bits * type.type.lanes / 8;
    if (position > buffer.size() || bytes > buffer.size() - position) {
      throw py::index_error("a tensor ends behind its memory");
    }
    if (!type.convert.is_none()) {
      tensor.rank = 1;
      tensor.type = dlpack::kByte;
      sizes[0] = static_cast<std::int64_t>(bytes);
      strides[0] = 1;
    }
    auto* const exported =
        new (raw.get()) Exported{{tensor, raw.get(), free_exported}, buffer.memory()};
    (void)raw.release();
    const py::object made = take(exported);
    return type.convert.is_none() ? made : type.convert(made, shape);
  }

  py::object take(Exported* exported) const {
    PyObject* const capsule = PyCapsule_New(&exported->managed, dlpack::kCapsuleName, free_capsule);
    if (capsule == nullptr) {
      free_exported(&exported->managed);
      throw py::error_already_set();
    }
    PyObject* const taken = PyObject_CallOneArg(take_.ptr(), capsule);
    Py_DECREF(capsule);
    if (taken == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(taken);
  }

  const py::object take_;
  const py::object make_empty_;
  const py::str name_, shape_, type_;
  std::map<std::string, Type> types_;
  py::object last_name_;
  const Type* last_ = nullptr;
};

}  // namespace

void bind_dlpack(py::module_& module) {
  py::class_<TensorFactory>(module, "TensorFactory",
                            "Makes tensors over Buffers, each with a storage of its own.")
      .def(py::init<py::object, py::object>(), py::arg("take"), py::arg("make_empty"))
      .def("add_type", &TensorFactory::add_type, py::arg("name"), py::arg("code"), py::arg("bits"),
           py::arg("lanes"), py::arg("packed"), py::arg("convert") = py::none())
      .def("tensor", &TensorFactory::tensor, py::arg("buffer"), py::arg("position"),
           py::arg("type"), py::arg("shape"))
      .def("tensors", &TensorFactory::tensors, py::arg("buffer"), py::arg("descriptions"),
           py::arg("first"));
}

}  // namespace streamer::python
