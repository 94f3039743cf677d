// Reading of the settings that streamer/settings.h lists.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "streamer/export.h"
#include "streamer/settings.h"
#include "streamer/status.h"

namespace streamer {

// Reads settings from overrides first, then from the environment, at the time of each call.
// Unset and empty are the same. Only names of the table may be asked for; the second group of
// functions takes only those whose default is a value.
class STREAMER_EXPORT Settings {
 public:
  Settings() = default;
  explicit Settings(const std::map<std::string, std::string>& overrides) : overrides_(overrides) {}

  std::optional<std::string> text(const char* name) const;
  Result<std::optional<std::int64_t>> integer(const char* name) const;  // kInteger, kBytes
  Result<std::optional<bool>> boolean(const char* name) const;  // 0 1 true false yes no on off
  Result<std::optional<std::string>> choice(const char* name) const;  // lower case

  Result<std::int64_t> number(const char* name) const;  // kInteger, kBytes
  Result<bool> enabled(const char* name) const;
  std::string text_or_default(const char* name) const;
  // A leading "~/" is replaced by HOME.
  std::string path(const char* name) const;

 private:
  std::map<std::string, std::string> overrides_;
};

}  // namespace streamer
