#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>

#include "callbacks.h"
#include "convert.h"
#include "interpreter.h"
#include "streamer/storage.h"
#include "streamer/stream.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

// Names of objects are bytes from outside: those that are not UTF-8 are as the names of files.
py::str to_text(const std::string& name) {
  auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), "surrogateescape"));
  if (!text) throw py::error_already_set();
  return text;
}

py::list list_objects(const std::string& prefix, bool recursive, const py::object& credentials,
                      const std::map<std::string, std::string>& source) {
  check_not_ending();
  auto options = Options::from_environment();
  raise_if_failed(options.status());
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  options->credentials = wrap_provider(credentials, ended);
  options->source = source;
  auto pending = std::make_shared<PendingInterrupt>();
  options->interrupted = [pending, ended] {
    if (pending->check()) *ended = true;
    return ended->load();
  };
  auto found = [&] {
    const WithoutGil released;
    return list(prefix, recursive, *options);
  }();
  pending->raise();
  raise_if_failed(found.status());
  py::list result;
  for (const ListedObject& object : *found) {
    result.append(py::make_tuple(to_text(object.path), object.size, object.version));
  }
  return result;
}

}  // namespace

void bind_list(py::module_& module) {
  module.def("list_objects", &list_objects, py::arg("prefix"), py::arg("recursive") = true,
             py::arg("credentials") = py::none(),
             py::arg("source") = std::map<std::string, std::string>());
  module.def(
      "cached_fraction",
      [](const std::string& path) {
        const auto fraction = [&] {
          const WithoutGil released;
          return cached_fraction(path);
        }();
        raise_if_failed(fraction.status());
        return *fraction;
      },
      py::arg("path"), "The part of a file that is in the page cache, from 0 to 1.");
  module.def(
      "source_kind",
      [](const std::string& path) {
        auto kind = source_kind_of(path);
        raise_if_failed(kind.status());
        return std::string(source_kind_name(*kind));
      },
      py::arg("path"), "file, s3, gcs, azure, http or hub, by the path's scheme.");
  module.def(
      "object_key",
      [](const py::str& path) {
        // Names of objects that are not UTF-8 are as the names of files.
        const auto bytes = py::reinterpret_steal<py::bytes>(
            PyUnicode_AsEncodedString(path.ptr(), "utf-8", "surrogateescape"));
        if (!bytes) throw py::error_already_set();
        return to_text(object_key(bytes.cast<std::string>()));
      },
      py::arg("path"), "The key of an object; of a file its path.");
}

}  // namespace streamer::python
