#include <gtest/gtest.h>

#include <string>

#include "base/settings.h"
#include "streamer/types.h"

namespace streamer {
namespace {

void expect(const char* text, FsStrategy strategy, bool only) {
  const auto parsed = parse_fs_strategy(text);
  ASSERT_TRUE(parsed.ok()) << text;
  EXPECT_EQ(parsed->strategy, strategy) << text;
  EXPECT_EQ(parsed->only, only) << text;
}

TEST(FsStrategy, TakesTheFirstOfAList) {
  expect("auto", FsStrategy::kAuto, false);
  expect("Mapped", FsStrategy::kMapped, true);
  expect("direct", FsStrategy::kDirect, true);
  expect(" direct , buffered\t", FsStrategy::kDirect, false);
  expect("mapped,direct", FsStrategy::kMapped, true);
}

TEST(FsStrategy, KnowsNamesThatPutTheSystemCallFirst) {
  expect("io_uring_direct,libaio_direct,sync_buffered", FsStrategy::kDirect, false);
  expect("libaio_direct", FsStrategy::kDirect, true);
  expect("sync_buffered", FsStrategy::kBuffered, false);
}

TEST(FsStrategy, RefusesOthers) {
  for (const char* text : {"", "io_uring", "sync_", "sync_auto", "direct,", ",direct", "fast",
                           "di rect", "direct buffered"}) {
    const auto parsed = parse_fs_strategy(text);
    EXPECT_EQ(parsed.status().code(), Code::kInvalid) << text;
  }
}

TEST(FsStrategy, TheSettingAcceptsEveryName) {
  std::string names;
  for (const FsStrategy strategy :
       {FsStrategy::kAuto, FsStrategy::kMapped, FsStrategy::kBuffered, FsStrategy::kDirect}) {
    names += std::string(names.empty() ? "" : "|") + fs_strategy_name(strategy);
  }
  EXPECT_EQ(find_setting("RUNAI_STREAMER_FS_STRATEGY")->accepted, names);
}

}  // namespace
}  // namespace streamer
