#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/block_sizes.h"
#include "base/default_sizes.h"
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
    row["default"] = default_text(info);
    row["accepted"] = info.accepted;
    row["summary"] = info.summary;
    row["former_name"] = info.former_name == nullptr ? "" : info.former_name;
    rows.append(row);
  }
  return rows;
}

template <typename T>
py::object checked(const Result<T>& result) {
  raise_if_failed(result.status());
  return py::cast(result.value());
}

py::object setting(const std::string& name) {
  const SettingInfo* info = find_setting(name);
  if (info == nullptr) throw py::key_error(name);
  const Settings settings;
  const bool has_value = info->default_value.has_value;
  switch (info->type) {
    case SettingType::kInteger:
    case SettingType::kBytes:
      return has_value ? checked(settings.number(info->name))
                       : checked(settings.integer(info->name));
    case SettingType::kBool:
      return has_value ? checked(settings.enabled(info->name))
                       : checked(settings.boolean(info->name));
    case SettingType::kChoice: {
      const py::object chosen = checked(settings.choice(info->name));
      return chosen.is_none() && has_value ? py::str(info->default_value.text) : chosen;
    }
    case SettingType::kText:
    case SettingType::kSecret:
      return has_value ? py::cast(settings.path(info->name)) : py::cast(settings.text(info->name));
  }
  return py::none();
}

}  // namespace

void bind_settings(py::module_& module) {
  module.attr("OBJECT_WINDOW") = kObjectWindow;
  module.attr("DEVICE_AHEAD") = kDeviceAhead;
  module.attr("ROUND_OF_RANK") = kRoundOfRank;
  module.attr("ROUND") = kRound;
  module.attr("DEVICE_ROUND_OF_RANK") = kDeviceRoundOfRank;
  module.attr("DEVICE_ROUND") = kDeviceRound;
  module.attr("SMALL_RANGE") = kSmallRange;
  module.attr("GROUP_BYTES") = kGroupBytes;
  module.def("settings_table", &table,
             "Every environment variable that is read: a list of dicts with group, name, type, "
             "default, accepted, summary and former_name (deprecated, or empty).");
  module.def(
      "settings_sign",
      [](const std::string& kind, const std::string& container) {
        for (int index = 0; index < kSourceKinds; ++index) {
          const auto known = static_cast<SourceKind>(index);
          if (kind == source_kind_name(known)) return settings_sign(known, container);
        }
        throw py::key_error(kind);
      },
      py::arg("kind"), py::arg("container"),
      "True if the settings hold a key or a signature for the container of that kind of storage.");
  module.def(
      "setting", &setting, py::arg("name"),
      "The value of an environment variable of the table now, checked, or its default; None if "
      "it is unset and its default depends on other things.");
}

}  // namespace streamer::python
