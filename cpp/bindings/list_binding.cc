#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "callbacks.h"
#include "convert.h"
#include "interpreter.h"
#include "streamer/storage.h"
#include "streamer/stream.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

// Names of objects may not be UTF-8. Then they become text as the names of files do.
py::str to_text(const std::string& name) {
  auto text = py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), "surrogateescape"));
  if (!text) throw py::error_already_set();
  return text;
}

using Source = std::map<std::string, std::string>;

// The result of `operation`, which may wait, with options that obey interrupts and report retries.
template <typename Operation>
auto run(const py::object& credentials, const Source& source, const py::object& retried,
         Operation operation) {
  check_not_ending();
  auto options = Options::from_environment();
  raise_if_failed(options.status());
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  options->credentials = wrap_provider(credentials, ended);
  options->source = source;
  auto pending = std::make_shared<PendingInterrupt>(retried);
  options->retried = pending->retries().listener();
  options->interrupted = [pending, ended] {
    if (pending->check()) *ended = true;
    return ended->load();
  };
  auto found = [&] {
    const WithoutGil released;
    return operation(*options);
  }();
  pending->retries().tell();
  pending->raise();
  raise_if_failed(found.status());
  return std::move(*found);
}

std::vector<ListedObject> listed(const std::string& prefix, bool recursive,
                                 const py::object& credentials, const Source& source,
                                 const py::object& retried) {
  return run(credentials, source, retried,
             [&](const Options& options) { return list(prefix, recursive, options); });
}

py::list list_objects(const std::string& prefix, bool recursive, const py::object& credentials,
                      const Source& source, const py::object& retried) {
  py::list result;
  for (const ListedObject& object : listed(prefix, recursive, credentials, source, retried)) {
    result.append(py::make_tuple(to_text(object.path), object.size, object.version));
  }
  return result;
}

py::dict list_digests(const std::string& prefix, bool recursive, const py::object& credentials,
                      const Source& source) {
  py::dict result;
  for (const ListedObject& object : listed(prefix, recursive, credentials, source, py::none())) {
    if (!object.sha256.empty()) result[to_text(object.path)] = object.sha256;
  }
  return result;
}

py::dict find_access_of(const std::string& path, const py::object& credentials,
                        const Source& source) {
  const Access found = run(credentials, source, py::none(),
                           [&](const Options& options) { return find_access(path, options); });
  py::dict result;
  result["endpoint"] = found.endpoint;
  result["endpoint_from"] = found.endpoint_from;
  result["host"] = found.host;
  result["region"] = found.region;
  result["container"] = to_text(found.container);
  result["key"] = to_text(found.key);
  result["identity"] = found.identity;
  result["expires_at"] = found.expires_at;
  result["credentials"] =
      found.credentials.ok() ? py::object(py::none()) : to_exception(found.credentials);
  result["proxy"] = found.proxy;
  result["proxy_from"] = found.proxy_from;
  result["ca_file"] = found.ca_file;
  result["ca_directory"] = found.ca_directory;
  return result;
}

}  // namespace

void bind_list(py::module_& module) {
  module.def("list_objects", &list_objects, py::arg("prefix"), py::arg("recursive") = true,
             py::arg("credentials") = py::none(), py::arg("source") = Source(),
             py::arg("retried") = py::none());
  module.def("list_digests", &list_digests, py::arg("prefix"), py::arg("recursive") = true,
             py::arg("credentials") = py::none(), py::arg("source") = Source(),
             "The SHA-256 of the objects, by path, if the list contains it (hf://).");
  module.def("find_access", &find_access_of, py::arg("path"), py::arg("credentials") = py::none(),
             py::arg("source") = Source(),
             "The way to the object or directory at `path`: see streamer::Access.");
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
      "is_url", [](const std::string& path) { return path_traits(path).url; }, py::arg("path"),
      "True if the path is percent-encoded and may have a query.");
  module.def(
      "lists_digests", [](const std::string& path) { return path_traits(path).lists_digests; },
      py::arg("path"), "True if list_digests() finds any below such a path.");
  module.def(
      "has_regions", [](const std::string& path) { return path_traits(path).regions; },
      py::arg("path"), "True if the bucket of the path belongs to a region.");
  module.def(
      "at_version",
      [](const std::string& path, const std::string& version) {
        return to_text(at_version(path, version));
      },
      py::arg("path"), py::arg("version"), "The directory at the version that its list returned.");
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
