#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/settings.h"
#include "convert.h"
#include "streamer/stream.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

const char* type_name(SettingType type) {
  switch (type) {
    case SettingType::kInteger: return "integer";
    case SettingType::kBytes: return "bytes";
    case SettingType::kBool: return "bool";
    case SettingType::kText: return "text";
    case SettingType::kChoice: return "choice";
    case SettingType::kSecret: return "secret";
  }
  return "text";
}

py::list table() {
  py::list rows;
  for (const SettingInfo& info : settings_table()) {
    py::dict row;
    row["group"] = info.group;
    row["name"] = info.name;
    row["type"] = type_name(info.type);
    row["default"] = info.standard;
    row["accepted"] = info.accepted;
    row["summary"] = info.summary;
    rows.append(row);
  }
  return rows;
}

template <typename T>
py::object value_or_none(const Result<std::optional<T>>& result) {
  raise_if_failed(result.status());
  return py::cast(result.value());
}

py::object setting(const std::string& name) {
  const SettingInfo* info = find_setting(name);
  if (info == nullptr) throw py::key_error(name);
  const Settings settings;
  switch (info->type) {
    case SettingType::kInteger:
    case SettingType::kBytes: return value_or_none(settings.integer(info->name));
    case SettingType::kBool: return value_or_none(settings.boolean(info->name));
    case SettingType::kChoice: return value_or_none(settings.choice(info->name));
    case SettingType::kText:
    case SettingType::kSecret: return py::cast(settings.text(info->name));
  }
  return py::none();
}

}  // namespace

void bind_settings(py::module_& module) {
  module.def("settings_table", &table,
             "Every environment variable that is read: a list of dicts with group, name, type, "
             "default, accepted and summary.");
  module.def(
      "azure_settings_sign",
      [](const std::string& container) { return settings_sign(SourceKind::kAzure, container); },
      py::arg("container"),
      "Whether the settings hold a key or a signature for the container or HOST/CONTAINER.");
  module.def("setting", &setting, py::arg("name"),
             "The value of an environment variable of the table now, checked; None where unset.");
}

}  // namespace streamer::python
