#include <gtest/gtest.h>

#include "streamer/types.h"

namespace streamer {
namespace {

TEST(MemoryLimit, HasTheValuesOfTheSetting) {
  EXPECT_EQ(*MemoryLimit::from_setting(-1), MemoryLimit::unlimited());
  EXPECT_EQ(*MemoryLimit::from_setting(0), MemoryLimit::least());
  EXPECT_EQ(*MemoryLimit::from_setting(1), MemoryLimit::bytes(1));
  EXPECT_EQ(*MemoryLimit::from_setting(INT64_MAX), MemoryLimit::bytes(INT64_MAX));
  for (const std::int64_t value : {std::int64_t{-2}, std::int64_t{-7}, INT64_MIN}) {
    EXPECT_EQ(MemoryLimit::from_setting(value).status().code(), Code::kInvalid) << value;
  }
}

TEST(MemoryLimit, TellsTheValueOfTheSetting) {
  EXPECT_EQ(MemoryLimit().setting(), std::nullopt);
  for (const std::int64_t value : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1}, INT64_MAX}) {
    EXPECT_EQ(MemoryLimit::from_setting(value)->setting(), value);
  }
}

TEST(MemoryLimit, OnlyBytesAreSharedByProcesses) {
  EXPECT_EQ(MemoryLimit::bytes(1000).share(4), MemoryLimit::bytes(250));
  EXPECT_EQ(MemoryLimit::bytes(3).share(4), MemoryLimit::bytes(1));
  for (const MemoryLimit limit : {MemoryLimit(), MemoryLimit::least(), MemoryLimit::unlimited()}) {
    EXPECT_EQ(limit.share(4), limit);
  }
}

TEST(MemoryLimit, StartsAtItsBytesAndIsRaisedIfTheEngineChooses) {
  EXPECT_EQ(MemoryLimit().kind(), MemoryLimit::Kind::kAutomatic);
  EXPECT_EQ(MemoryLimit().initial(), 0U);
  EXPECT_EQ(MemoryLimit::least().initial(), 0U);
  EXPECT_EQ(MemoryLimit::bytes(10).initial(), 10U);
  EXPECT_EQ(MemoryLimit::unlimited().initial(), UINT64_MAX);
}

TEST(MemoryLimit, OnlyBytesRefuseABlock) {
  EXPECT_EQ(MemoryLimit::bytes(10).largest_block(), 10U);
  for (const MemoryLimit limit : {MemoryLimit(), MemoryLimit::least(), MemoryLimit::unlimited()}) {
    EXPECT_EQ(limit.largest_block(), UINT64_MAX);
  }
}

}  // namespace
}  // namespace streamer
