// The class of Python that describes a tensor of a file: name, shape, dtype, start and end.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace streamer::python {

// An instance of `type`: TensorDescription, or a subclass without attributes of its own. `shape` is
// a tuple. Throws TypeError for another type.
pybind11::object describe_tensor(const pybind11::type& type, pybind11::str name,
                                 pybind11::object shape, pybind11::str dtype, std::uint64_t start,
                                 std::uint64_t end);

void bind_tensor_description(pybind11::module_& module);

}  // namespace streamer::python
