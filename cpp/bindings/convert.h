// Conversions shared by the binding's files.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "streamer/status.h"

namespace streamer::python {

// Bytes from outside as text; bytes that are not UTF-8 are replaced.
pybind11::str text(const std::string& bytes);

// The Python exception for `status`, made by the factory that set_error_factory() was given.
pybind11::object to_exception(const Status& status);

// Raises it if `status` is not ok.
void raise_if_failed(const Status& status);

void bind_errors(pybind11::module_& module);
void bind_list(pybind11::module_& module);
void bind_settings(pybind11::module_& module);
void bind_header(pybind11::module_& module);
void bind_dlpack(pybind11::module_& module);
void bind_types(pybind11::module_& module);
void bind_stream(pybind11::module_& module);

}  // namespace streamer::python
