#include "text/unique_names.h"

#include <algorithm>
#include <functional>

namespace streamer {

void UniqueNames::add(std::string_view name) {
  names_.emplace_back(std::hash<std::string_view>{}(name), name);
}

void UniqueNames::add_copy(std::string_view name) { add(copies_.emplace_back(name)); }

std::optional<std::string_view> UniqueNames::duplicate() {
  std::sort(names_.begin(), names_.end());
  const auto found = std::adjacent_find(names_.begin(), names_.end());
  if (found == names_.end()) return std::nullopt;
  return found->second;
}

}  // namespace streamer
