#include "callbacks.h"

#include <pybind11/stl.h>

#include <map>
#include <string>

namespace py = pybind11;

namespace streamer::python {

bool PendingInterrupt::check() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return false;
  error_ = std::make_unique<py::error_already_set>();
  return true;
}

void PendingInterrupt::raise() {
  if (!error_) return;
  const std::unique_ptr<py::error_already_set> error = std::move(error_);
  throw py::error_already_set(*error);
}

bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

CredentialsProvider wrap_provider(const py::object& provider) {
  if (provider.is_none()) return {};
  auto callable = shared_object(provider.cast<py::function>());
  return [callable](const CredentialsRequest& request) -> Result<Credentials> {
    const py::gil_scoped_acquire gil;
    try {
      const py::object answer =
          (*callable)(source_kind_name(request.kind), request.container, request.refresh);
      Credentials credentials;
      if (answer.is_none()) return credentials;
      const auto parts = answer.cast<py::tuple>();
      credentials.values = parts[0].cast<std::map<std::string, std::string>>();
      credentials.expires_at = parts[1].cast<std::int64_t>();
      credentials.identity = parts[2].cast<std::string>();
      return credentials;
    } catch (const py::error_already_set& error) {
      const auto type = py::str(error.type().attr("__name__")).cast<std::string>();
      const auto what = py::str(error.value()).cast<std::string>();
      if (error.matches(PyExc_ImportError)) return Status::error(Code::kPackage, what);
      return Status::error(Code::kCredentials, "no credentials: " + type + ": " + what);
    } catch (const std::exception& error) {
      return Status::error(Code::kCredentials, std::string("no credentials: ") + error.what());
    }
  };
}

}  // namespace streamer::python
