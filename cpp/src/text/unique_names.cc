#include "text/unique_names.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace streamer {

void UniqueNames::add(std::string_view name) {
  ascending_ = ascending_ && (names_.empty() || names_.back() < name);
  names_.push_back(name);
}

void UniqueNames::add_copy(std::string_view name) { add(copies_.emplace_front(name)); }

std::optional<std::string_view> UniqueNames::duplicate() const {
  if (ascending_) return std::nullopt;
  std::vector<std::pair<std::size_t, std::string_view>> hashed;
  hashed.reserve(names_.size());
  for (const std::string_view name : names_) {
    hashed.emplace_back(std::hash<std::string_view>{}(name), name);
  }
  std::sort(hashed.begin(), hashed.end());
  const auto found = std::adjacent_find(hashed.begin(), hashed.end());
  if (found == hashed.end()) return std::nullopt;
  return found->second;
}

}  // namespace streamer
