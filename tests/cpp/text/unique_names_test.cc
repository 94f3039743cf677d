#include "text/unique_names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace streamer {
namespace {

std::optional<std::string_view> duplicate(const std::vector<std::string>& names) {
  UniqueNames given, copied;
  for (const std::string& name : names) {
    given.add(name);
    copied.add_copy(std::string(name));
  }
  EXPECT_EQ(given.duplicate(), copied.duplicate());
  return given.duplicate();
}

TEST(UniqueNames, FindsADuplicateWhereverItIs) {
  const std::vector<std::string> ascending = {"", "a", "a.b", "a.c", "b", "z"};
  for (const bool reversed : {false, true}) {
    for (std::size_t from = 0; from < ascending.size(); ++from) {
      for (std::size_t at = 0; at <= ascending.size(); ++at) {
        std::vector<std::string> names = ascending;
        if (reversed) std::reverse(names.begin(), names.end());
        const std::string twice = names[from];
        EXPECT_EQ(duplicate(names), std::nullopt);
        names.insert(names.begin() + static_cast<std::ptrdiff_t>(at), twice);
        EXPECT_EQ(duplicate(names), twice) << from << " " << at << " " << reversed;
      }
    }
  }
}

TEST(UniqueNames, FewNamesDiffer) {
  EXPECT_EQ(duplicate({}), std::nullopt);
  EXPECT_EQ(duplicate({""}), std::nullopt);
  EXPECT_EQ(duplicate({"", ""}), "");
}

}  // namespace
}  // namespace streamer
