// Names that must differ.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace streamer {

// Finds a name that was added twice. O(n log n) for any names, also if their hashes are equal.
class UniqueNames {
 public:
  void reserve(std::size_t count) { names_.reserve(count); }
  // `name` must outlive this.
  void add(std::string_view name);
  void add_copy(std::string_view name);
  std::optional<std::string_view> duplicate();

 private:
  std::vector<std::pair<std::size_t, std::string_view>> names_;  // with their hashes
  std::deque<std::string> copies_;
};

}  // namespace streamer
