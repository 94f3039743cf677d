// The settings: every environment variable that this library reads, in one table. The documentation
// page docs/reference/environment.md is generated from it.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "streamer/export.h"

namespace streamer {

enum class SettingType { kInteger, kBytes, kBool, kText, kChoice, kSecret };

// The default of a setting: a value, or words if it depends on other things.
struct SettingDefault {
  // Without a value: its text for people. With a value of text: the value.
  constexpr SettingDefault(const char* words) : text(words) {}  // NOLINT: reads as words in a table
  constexpr SettingDefault(const char* value_text, std::optional<std::int64_t> value_number,
                           bool is_value = true)
      : text(value_text), number(value_number), has_value(is_value) {}

  const char* text;                    // null: see `number`
  std::optional<std::int64_t> number;  // kInteger, kBytes and kBool (0 or 1)
  bool has_value = false;
};

struct SettingInfo {
  const char* group;  // heading in the documentation
  const char* name;   // of the environment variable
  SettingType type;
  SettingDefault default_value;
  const char* accepted;  // kChoice: values separated by '|'; else the accepted text, in words
  std::int64_t minimum;  // kInteger and kBytes
  std::int64_t maximum;
  const char* summary;                // one sentence
  const char* former_name = nullptr;  // deprecated, has the same meaning if `name` is unset
};

// The default as people read it, such as "64 MiB".
STREAMER_EXPORT std::string default_text(const SettingInfo& info);

// Every setting, grouped, in the order of the documentation.
STREAMER_EXPORT std::span<const SettingInfo> settings_table();
// The setting of that name, or null.
STREAMER_EXPORT const SettingInfo* find_setting(const std::string& name);

}  // namespace streamer
