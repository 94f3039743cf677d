#include "base/fs_strategy.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

void expect(const char* text, const char* name, bool fallback) {
  const auto parsed = parse_fs_strategy(text);
  ASSERT_TRUE(parsed) << text;
  EXPECT_EQ(parsed->name, name) << text;
  EXPECT_EQ(parsed->fallback, fallback) << text;
}

TEST(FsStrategy, TakesTheFirstOfAList) {
  expect("auto", "auto", true);
  expect("Mapped", "mapped", false);
  expect("direct", "direct", false);
  expect(" direct , buffered\t", "direct", true);
  expect("mapped,direct", "mapped", false);
}

TEST(FsStrategy, KnowsTheNamesOfTheOriginal) {
  expect("io_uring_direct,libaio_direct,sync_buffered", "direct", true);
  expect("libaio_direct", "direct", false);
  expect("sync_buffered", "buffered", true);
}

TEST(FsStrategy, RefusesOthers) {
  for (const char* text : {"", "io_uring", "sync_", "sync_auto", "direct,", ",direct", "fast",
                           "di rect", "direct buffered"}) {
    EXPECT_FALSE(parse_fs_strategy(text)) << text;
  }
}

}  // namespace
}  // namespace streamer
