#include <pybind11/pybind11.h>

#include <string>

#include "base/hints.h"
#include "base/shown_text.h"
#include "convert.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

// Lives as long as the interpreter.
PyObject* error_factory = nullptr;

}  // namespace

py::str text(const std::string& bytes) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
}

py::object to_exception(const Status& status) {
  const ErrorDetail& detail = status.detail();
  py::dict fields;
  fields["message"] = text(detail.message);
  fields["path"] = text(detail.path);
  if (detail.has_range) {
    fields["offset"] = detail.offset;
    fields["size"] = detail.size;
  }
  fields["errno"] = detail.os_error;
  fields["http_status"] = detail.http_status;
  fields["server_code"] = text(detail.server_code);
  fields["server_message"] = text(detail.server_message);
  fields["request_id"] = text(detail.request_id);
  fields["endpoint"] = text(detail.endpoint);
  fields["identity"] = text(detail.identity);
  fields["hint"] = text(detail.hint);
  fields["attempts"] = detail.attempts;
  if (error_factory == nullptr) throw std::runtime_error(status.to_string());
  return py::handle(error_factory)(code_name(status.code()), text(status.to_string()), fields);
}

void raise_if_failed(const Status& status) {
  if (status.ok()) return;
  const py::object exception = to_exception(status);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw py::error_already_set();
}

void bind_errors(py::module_& module) {
  module.def(
      "set_error_factory",
      [](const py::object& factory) {
        Py_XDECREF(error_factory);
        error_factory = py::object(factory).release().ptr();
      },
      py::arg("factory"),
      "factory(code, text, fields) makes the exception that the module raises.");
  module.def(
      "shown_path",
      [](std::string path) {
        return text(Status::error(Code::kInvalid, "").with_path(std::move(path)).detail().path);
      },
      py::arg("path"),
      "The path as errors show it: a URL without its query, which may grant access.");
  module.def(
      "shown_text",
      [](std::string bytes) {
        return text(Status::error(Code::kInvalid, std::move(bytes)).detail().message);
      },
      py::arg("text"), "The text without secrets, line breaks and other control characters.");
  module.def(
      "shown_access_key", [](const std::string& key) { return text(shown_access_key(key)); },
      py::arg("access_key"),
      "An access key of AWS as errors show it: its first and last characters.");
  module.attr("sticky_device_hint") = kStickyHint;
}

}  // namespace streamer::python
