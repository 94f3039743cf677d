// Settings: the environment variables that this library reads, in one table. The documentation
// page docs/environment.md is generated from it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "streamer/status.h"

namespace streamer {

enum class SettingType { kInteger, kBytes, kBool, kText, kChoice, kSecret };

struct SettingInfo {
  const char* group;     // heading in the documentation
  const char* name;      // of the environment variable
  SettingType type;
  const char* standard;  // what holds when it is unset, as people read it
  const char* accepted;  // kChoice: values separated by '|'; else what is accepted, in words
  std::int64_t minimum;  // kInteger and kBytes
  std::int64_t maximum;
  const char* summary;   // one sentence
};

// Every setting, grouped, in the order of the documentation.
std::span<const SettingInfo> settings_table();
const SettingInfo* find_setting(const std::string& name);

// Reads settings from overrides first, then from the environment, at the time of each call.
// Unset and empty are the same. Only names of the table may be asked for.
class Settings {
 public:
  Settings() = default;
  explicit Settings(const std::map<std::string, std::string>& overrides) : overrides_(overrides) {}

  std::optional<std::string> text(const char* name) const;
  Result<std::optional<std::int64_t>> integer(const char* name) const;  // kInteger, kBytes
  Result<std::optional<bool>> boolean(const char* name) const;          // 0 1 true false yes no on off
  Result<std::optional<std::string>> choice(const char* name) const;    // lower case

 private:
  std::map<std::string, std::string> overrides_;
};

}  // namespace streamer
