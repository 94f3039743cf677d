// Names that must differ.
#pragma once

#include <cstddef>
#include <forward_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace streamer {

// Finds a name that was added twice. O(n) for names in ascending order, as writers often leave
// them; else O(n log n), also if their hashes are equal. One without names has allocated nothing.
class UniqueNames {
 public:
  void reserve(std::size_t count) { names_.reserve(count); }
  // `name` must outlive this.
  void add(std::string_view name);
  void add_copy(std::string_view name);
  std::optional<std::string_view> duplicate() const;

 private:
  std::vector<std::string_view> names_;
  std::forward_list<std::string> copies_;
  bool ascending_ = true;
};

}  // namespace streamer
