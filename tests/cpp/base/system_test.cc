#include "base/system.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace streamer {
namespace {

using namespace std::chrono_literals;

TEST(System, CountsTheProcessorTimeThatTheProcessUses) {
  const ProcessorTimes before = processor_times(false);
  while (processor_times(false).used < before.used + 0.01) {
  }
  EXPECT_GT(before.used, 0);
  EXPECT_EQ(before.idle, 0);
}

TEST(System, TheIdleTimeOfTheProcessorsOnlyGrows) {
  const ProcessorTimes before = processor_times(true);
  std::this_thread::sleep_for(50ms);
  EXPECT_GT(before.idle, 0);
  EXPECT_GE(processor_times(true).idle, before.idle);
}

}  // namespace
}  // namespace streamer
