#include "base/memory_map.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "base/memory_units.h"
#include "source/system_calls.h"

namespace streamer {
namespace {

TEST(MemoryUnits, RoundToPowersOfTwo) {
  EXPECT_EQ(round_down(4095, 4096), 0U);
  EXPECT_EQ(round_down(4096, 4096), 4096U);
  EXPECT_EQ(round_up(0, 4096), 0U);
  EXPECT_EQ(round_up(1, 4096), 4096U);
  EXPECT_EQ(round_up(4096, 4096), 4096U);
  EXPECT_TRUE(is_aligned(8192, 4096));
  EXPECT_FALSE(is_aligned(8193, 4096));
  EXPECT_TRUE(is_aligned(kHugePage, page_size()));
}

TEST(MemoryMap, AlignedMemoryStartsAHugePage) {
  for (const std::uint64_t bytes : {page_size(), kHugePage, 5 * kMiB + page_size()}) {
    std::byte* const memory = map_aligned_memory(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_TRUE(is_aligned(memory, kHugePage));
    std::memset(memory, 1, bytes);
    unmap_memory(memory, bytes);
  }
}

TEST(MemoryMap, SaysWhyThereIsNone) {
  errno = 0;
  EXPECT_EQ(map_memory(std::uint64_t{1} << 60), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(map_aligned_memory(std::uint64_t{1} << 60), nullptr);
}

TEST(MemoryMap, MemoryThatCannotBeUnmappedIsReleased) {
  std::byte* const memory = map_memory(2 * page_size());
  ASSERT_NE(memory, nullptr);
  std::memset(memory, 1, 2 * page_size());
  {
    testing::Hooks hooks;
    hooks.unmap = [](void*, std::size_t) { return ENOMEM; };
    const testing::SystemCalls calls(hooks);
    unmap_memory(memory, page_size());
  }
  EXPECT_EQ(memory[0], std::byte{0});
  EXPECT_EQ(memory[page_size()], std::byte{1});
  unmap_memory(memory, 2 * page_size());
}

}  // namespace
}  // namespace streamer
