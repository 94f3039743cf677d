#include "base/settings.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/memory_units.h"
#include "base/text.h"

namespace streamer {
namespace {

using Overrides = std::map<std::string, std::string>;

// A value, and the name that it was found by: the one of the table, or its deprecated one.
struct Found {
  const char* name;
  std::string value;
};

std::optional<Found> find(const Overrides& overrides, const SettingInfo& info) {
  for (const char* name : {info.name, info.former_name}) {
    if (name == nullptr) continue;
    if (auto it = overrides.find(name); it != overrides.end()) {
      return it->second.empty() ? std::nullopt : std::optional(Found{name, it->second});
    }
  }
  for (const char* name : {info.name, info.former_name}) {
    const char* value = name == nullptr ? nullptr : std::getenv(name);
    if (value != nullptr && *value != '\0') return Found{name, value};
  }
  return std::nullopt;
}

Status invalid(const SettingInfo& info, const Found& found) {
  return Status::error(Code::kInvalid,
                       std::string("invalid value '") + found.value + "' of " + found.name)
      .with_hint(std::string("Accepted: ") + info.accepted + "; unset: " + default_text(info));
}

const SettingInfo& must_find(const char* name) {
  const SettingInfo* info = find_setting(name);
  if (info == nullptr) std::abort();  // a name that is not in the table is a defect here
  return *info;
}

const SettingDefault& must_have_value(const char* name) {
  const SettingDefault& fallback = must_find(name).default_value;
  if (!fallback.has_value) std::abort();
  return fallback;
}

}  // namespace

std::string default_text(const SettingInfo& info) {
  const SettingDefault& fallback = info.default_value;
  if (fallback.text != nullptr) return fallback.text;
  const std::int64_t number = fallback.number.value_or(0);
  const bool mebibytes = info.type == SettingType::kBytes && number > 0 && number % kMiB == 0;
  return mebibytes ? std::to_string(number / static_cast<std::int64_t>(kMiB)) + " MiB"
                   : std::to_string(number);
}

const SettingInfo* find_setting(const std::string& name) {
  for (const SettingInfo& info : settings_table()) {
    if (name == info.name) return &info;
  }
  return nullptr;
}

std::optional<std::string> Settings::text(const char* name) const {
  std::optional<Found> found = find(overrides_, must_find(name));
  return found ? std::optional(std::move(found->value)) : std::nullopt;
}

Result<std::optional<std::int64_t>> Settings::integer(const char* name) const {
  const SettingInfo& info = must_find(name);
  const std::optional<Found> found = find(overrides_, info);
  if (!found) return std::optional<std::int64_t>();
  errno = 0;
  char* end = nullptr;
  const long long number = std::strtoll(found->value.c_str(), &end, 10);
  if (errno != 0 || end == found->value.c_str() || *end != '\0' || number < info.minimum ||
      number > info.maximum) {
    return invalid(info, *found);
  }
  return std::optional<std::int64_t>(number);
}

Result<std::optional<bool>> Settings::boolean(const char* name) const {
  const SettingInfo& info = must_find(name);
  const std::optional<Found> found = find(overrides_, info);
  if (!found) return std::optional<bool>();
  const std::string word = lower(found->value);
  for (const char* yes : {"1", "true", "yes", "on"}) {
    if (word == yes) return std::optional<bool>(true);
  }
  for (const char* no : {"0", "false", "no", "off"}) {
    if (word == no) return std::optional<bool>(false);
  }
  return invalid(info, *found);
}

Result<std::optional<std::string>> Settings::choice(const char* name) const {
  const SettingInfo& info = must_find(name);
  const std::optional<Found> found = find(overrides_, info);
  if (!found) return std::optional<std::string>();
  const std::string word = lower(found->value);
  std::string accepted = info.accepted;
  for (std::size_t start = 0; start <= accepted.size();) {
    const std::size_t end = std::min(accepted.find('|', start), accepted.size());
    if (accepted.compare(start, end - start, word) == 0) return std::optional(word);
    start = end + 1;
  }
  return invalid(info, *found);
}

Result<std::int64_t> Settings::number(const char* name) const {
  const SettingDefault& fallback = must_have_value(name);
  const auto set = integer(name);
  if (!set.ok()) return set.status();
  return set->value_or(fallback.number.value_or(0));
}

Result<bool> Settings::enabled(const char* name) const {
  const SettingDefault& fallback = must_have_value(name);
  const auto set = boolean(name);
  if (!set.ok()) return set.status();
  return set->value_or(fallback.number != 0);
}

std::string Settings::text_or_default(const char* name) const {
  return text(name).value_or(must_have_value(name).text);
}

std::string Settings::path(const char* name) const {
  const std::string path = text_or_default(name);
  return path.starts_with("~/") ? text("HOME").value_or("") + path.substr(1) : path;
}

}  // namespace streamer
