#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "convert.h"
#include "streamer/types.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

MemoryLimit from_setting(std::optional<std::int64_t> value) {
  if (!value) return {};
  const auto limit = MemoryLimit::from_setting(*value);
  raise_if_failed(limit.status());
  return *limit;
}

}  // namespace

void bind_types(py::module_& module) {
  py::enum_<DeviceType>(module, "DeviceType")
      .value("HOST", DeviceType::kHost)
      .value("CUDA", DeviceType::kCuda);
  py::enum_<Ownership>(module, "Ownership")
      .value("OWNED", Ownership::kOwned)
      .value("SHARED", Ownership::kShared)
      .value("COPIED", Ownership::kCopied);
  py::class_<MemoryLimit>(module, "MemoryLimit")
      .def_static("automatic", [] { return MemoryLimit(); })
      .def_static("unlimited", &MemoryLimit::unlimited)
      .def_static("least", &MemoryLimit::least)
      .def_static("bytes", &MemoryLimit::bytes, py::arg("bytes"))
      .def_static("from_setting", &from_setting, py::arg("value"))
      .def_property_readonly("setting", &MemoryLimit::setting)
      .def_property_readonly("initial", &MemoryLimit::initial)
      .def("share", &MemoryLimit::share, py::arg("processes"))
      .def("__eq__", [](const MemoryLimit& one, const MemoryLimit& other) { return one == other; })
      .def("__hash__", [](const MemoryLimit& limit) { return py::hash(py::cast(limit.setting())); })
      .def("__repr__", [](const MemoryLimit& limit) {
        const std::optional<std::int64_t> setting = limit.setting();
        return "MemoryLimit(" + (setting ? std::to_string(*setting) : "automatic") + ")";
      });
}

}  // namespace streamer::python
