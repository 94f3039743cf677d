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
