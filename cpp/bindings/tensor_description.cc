#include "tensor_description.h"

#include <structmember.h>

#include <cstddef>

namespace py = pybind11;

namespace streamer::python {
namespace {

// A model has hundreds of thousands of them. A number as a Python object would take 32 bytes.
struct TensorDescription {
  PyObject ob_base;
  PyObject* name;
  PyObject* shape;
  PyObject* dtype;
  unsigned long long start;  // as T_ULONGLONG has it
  unsigned long long end;
};

PyTypeObject* base_type = nullptr;  // lives as long as the process

TensorDescription* fields(PyObject* self) { return reinterpret_cast<TensorDescription*>(self); }

void replace(PyObject** field, PyObject* value) {
  Py_INCREF(value);
  Py_XSETREF(*field, value);
}

int initialize(PyObject* self, PyObject* arguments, PyObject* names) {
  static const char* const kNames[] = {"name", "shape", "dtype", "start", "end", nullptr};
  PyObject *name = nullptr, *shape = nullptr, *dtype = nullptr, *start = nullptr, *end = nullptr;
  if (PyArg_ParseTupleAndKeywords(arguments, names, "UOUO!O!:TensorDescription",
                                  const_cast<char**>(kNames), &name, &shape, &dtype, &PyLong_Type,
                                  &start, &PyLong_Type, &end) == 0) {
    return -1;
  }
  const unsigned long long first = PyLong_AsUnsignedLongLong(start);
  if (PyErr_Occurred() != nullptr) return -1;
  const unsigned long long last = PyLong_AsUnsignedLongLong(end);
  if (PyErr_Occurred() != nullptr) return -1;
  PyObject* const sizes = PySequence_Tuple(shape);
  if (sizes == nullptr) return -1;
  TensorDescription* const made = fields(self);
  replace(&made->name, name);
  replace(&made->shape, sizes);
  Py_DECREF(sizes);
  replace(&made->dtype, dtype);
  made->start = first;
  made->end = last;
  return 0;
}

void deallocate(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  const TensorDescription* const dropped = fields(self);
  Py_XDECREF(dropped->name);
  Py_XDECREF(dropped->shape);
  Py_XDECREF(dropped->dtype);
  type->tp_free(self);
  Py_DECREF(type);
}

#define STREAMER_FIELD(type, field, text) \
  { #field, type, offsetof(TensorDescription, field), READONLY, text }

PyMemberDef members[] = {
    STREAMER_FIELD(T_OBJECT_EX, name, "The name of the tensor."),
    STREAMER_FIELD(T_OBJECT_EX, shape, "A tuple of its sizes, as the file has them."),
    STREAMER_FIELD(T_OBJECT_EX, dtype, "The name of its type in the format, for example BF16."),
    STREAMER_FIELD(T_ULONGLONG, start, "The position of its first byte in the data section."),
    STREAMER_FIELD(T_ULONGLONG, end, "The position behind its last byte."),
    {},
};

#undef STREAMER_FIELD

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("A tensor of a file. Its attributes do not change.")},
    {Py_tp_new, reinterpret_cast<void*>(&PyType_GenericNew)},
    {Py_tp_init, reinterpret_cast<void*>(&initialize)},
    {Py_tp_dealloc, reinterpret_cast<void*>(&deallocate)},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec spec = {
    "runai_model_streamer._native.TensorDescription",
    sizeof(TensorDescription),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    slots,
};

}  // namespace

py::object describe_tensor(const py::type& type, py::str name, py::object shape, py::str dtype,
                           std::uint64_t start, std::uint64_t end) {
  auto* const made_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  if (PyType_IsSubtype(made_type, base_type) == 0 ||
      made_type->tp_basicsize != base_type->tp_basicsize) {
    throw py::type_error("the type is no TensorDescription, or has attributes of its own");
  }
  auto made = py::reinterpret_steal<py::object>(made_type->tp_alloc(made_type, 0));
  if (!made) throw py::error_already_set();
  TensorDescription* const description = fields(made.ptr());
  description->name = name.release().ptr();
  description->shape = shape.release().ptr();
  description->dtype = dtype.release().ptr();
  description->start = start;
  description->end = end;
  // Objects that hold only text and numbers need no garbage collection. Tracking them would cost
  // time in each collection while many tensors are made. Instances of a class of Python are tracked
  // at first.
  if (PyObject_IS_GC(made.ptr())) PyObject_GC_UnTrack(made.ptr());
  return made;
}

void bind_tensor_description(py::module_& module) {
  base_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (base_type == nullptr) throw py::error_already_set();
  module.attr("TensorDescription") =
      py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(base_type));
}

}  // namespace streamer::python
