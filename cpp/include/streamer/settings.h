// The settings: every environment variable that this library reads, in one table. The documentation
// page docs/reference/environment.md is generated from it.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "streamer/export.h"

namespace streamer {

enum class SettingType { kInteger, kBytes, kBool, kText, kChoice, kSecret };

struct SettingInfo {
  const char* group;  // heading in the documentation
  const char* name;   // of the environment variable
  SettingType type;
  const char* standard;  // what holds when it is unset, as people read it
  const char* accepted;  // kChoice: values separated by '|'; else what is accepted, in words
  std::int64_t minimum;  // kInteger and kBytes
  std::int64_t maximum;
  const char* summary;  // one sentence
};

// Every setting, grouped, in the order of the documentation.
STREAMER_EXPORT std::span<const SettingInfo> settings_table();
// The setting of that name, or null.
STREAMER_EXPORT const SettingInfo* find_setting(const std::string& name);

}  // namespace streamer
