#include "engine/concurrency.h"

#include <gtest/gtest.h>

#include <functional>
#include <queue>
#include <random>
#include <vector>

namespace streamer {
namespace {

using namespace std::chrono_literals;
constexpr double kChunk = 8 << 20;

SourceTraits remote() {
  SourceTraits traits;
  traits.remote = true;
  traits.initial_concurrency = 4;
  traits.max_concurrency = 64;
  return traits;
}

// Of the machine on which the loads run.
constexpr int kProcessors = 2;

// A read ended; the processors have been used as `times` says, if the controller wants to know.
void complete(ConcurrencyController& controller, std::uint64_t bytes, int active,
              const ReadReport& report, ConcurrencyController::TimePoint now,
              const ProcessorTimes& times = {}) {
  if (controller.completed(bytes, active, report, now)) controller.measured(times, now);
}

// A storage whose bytes per second depend on the number of connections, on a clock of its own.
// Returns the rate of the whole load, relative to the best of all fixed numbers.
struct Load {
  std::function<double(int)> rate;  // bytes per second of n connections
  double seconds = 0;
  std::uint64_t bytes = 0;
  int last = 0;

  void run(ConcurrencyController* controller, int reads, double noise = 0.1) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> spread(1 - noise, 1 + noise);
    const ConcurrencyController::TimePoint origin{1h};
    std::priority_queue<double, std::vector<double>, std::greater<>> ends;
    for (int started = 0; started < reads || !ends.empty();) {
      while (started < reads && static_cast<int>(ends.size()) < controller->limit()) {
        const int active = static_cast<int>(ends.size()) + 1;
        ends.push(seconds + kChunk * active / rate(active) * spread(random));
        ++started;
      }
      const int active = static_cast<int>(ends.size());
      seconds = ends.top();
      ends.pop();
      bytes += static_cast<std::uint64_t>(kChunk);
      complete(*controller, static_cast<std::uint64_t>(kChunk), active, {},
               origin + std::chrono::duration_cast<std::chrono::nanoseconds>(
                            std::chrono::duration<double>(seconds)));
    }
    last = controller->limit();
  }
  double achieved() const { return static_cast<double>(bytes) / seconds; }
};

ReadReport asked_to_slow_down() {
  ReadReport report;
  report.congested = true;
  return report;
}

constexpr Distance kNear{.same_host = false, .latency = 0.001};
constexpr Distance kFar{.same_host = false, .latency = 0.02};
constexpr Distance kHere{.same_host = true, .latency = 0.02};

TEST(Concurrency, FixedIsFixed) {
  ConcurrencyController controller(7, remote(), kProcessors);
  controller.start(kFar);
  Load load{[](int n) { return 1e8 * n; }};
  load.run(&controller, 500);
  EXPECT_EQ(load.last, 7);
  EXPECT_EQ(controller.maximum(), 7);
}

// Where it stands after its first four reads, of 8 MiB each.
int limit_after_four(const Distance& distance, double seconds, double waited) {
  ReadReport report;
  report.seconds = seconds;
  report.waited = waited;
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(distance);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(controller.limit(), 4);
    complete(controller, 8 << 20, 4, report, ConcurrencyController::TimePoint{1s});
  }
  return controller.limit();
}

TEST(Concurrency, GoesBackWhereRequestsWaitForOneAnother) {
  const int few = std::min(4, kProcessors + 1);
  EXPECT_EQ(limit_after_four(kHere, 0.02, 0.015), few);
  EXPECT_EQ(limit_after_four(kHere, 0.02, 0.005), 4);
  EXPECT_EQ(limit_after_four(kNear, 0.02, 0.015), 4) << "they may wait for the network";
  EXPECT_EQ(limit_after_four(kHere, 0.2, 0.15), 4) << "this is how a proxy to a slow place looks";
}

TEST(Concurrency, TheStartIsLeftAloneOnceSomethingWasRead) {
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 25e6 * n; }};
  load.run(&controller, 2000);
  EXPECT_GE(load.last, 48);
  controller.start(kHere);
  EXPECT_EQ(controller.limit(), load.last);
}

TEST(Concurrency, GrowsWhileConnectionsAreTheBound) {
  // 25 MB/s each, up to 1.6 GB/s.
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 25e6 * n; }};
  load.run(&controller, 2000);
  EXPECT_GE(load.last, 48);
}

TEST(Concurrency, StartsWithMoreWhereTheStorageIsFar) {
  for (const auto& [distance, first] : {std::pair(kNear, 4), std::pair(kFar, 8)}) {
    ConcurrencyController controller(0, remote(), kProcessors);
    controller.start(distance);
    controller.start(distance);
    EXPECT_EQ(controller.limit(), first);
  }
  ConcurrencyController controller(0, remote(), kProcessors);
  complete(controller, 1, 1, {}, ConcurrencyController::TimePoint{1h});
  controller.start(kFar);  // too late: numbers are being compared
  EXPECT_EQ(controller.limit(), 4);
}

TEST(Concurrency, LeavesAFullLongLinkAlone) {
  // Whatever is tried beyond 8 costs a third.
  const auto rate = [](int n) { return n <= 8 ? 150e6 * n : 0.8e9; };
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(kFar);
  Load load{rate};
  load.run(&controller, 400);
  EXPECT_GE(load.achieved(), 0.97 * 1.2e9);
}

TEST(Concurrency, ClimbsALongLinkOfSlowConnections) {
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(kFar);
  Load load{[](int n) { return 80e6 * n; }};
  load.run(&controller, 500);
  EXPECT_GE(load.last, 32);
}

TEST(Concurrency, StopsWhereTheLinkIsFull) {
  // 150 MB/s each; the link has 1.2 GB/s, and too many connections lose some of it.
  const auto rate = [](int n) { return n <= 8 ? 150e6 * n : 1.2e9 / (1 + 0.06 * (n - 8)); };
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{rate};
  load.run(&controller, 600);
  EXPECT_GE(load.last, 6);
  EXPECT_LE(load.last, 11);
  EXPECT_GE(load.achieved(), 0.88 * 1.2e9);
}

TEST(Concurrency, KeepsFewWhereMoreDoNotHelp) {
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 3e9 / (1 + 0.02 * n); }};
  load.run(&controller, 2000);
  EXPECT_LE(load.last, 6);
  EXPECT_GE(load.achieved(), 0.85 * 3e9);
}

TEST(Concurrency, FollowsALinkThatImproves) {
  ConcurrencyController controller(0, remote(), kProcessors);
  double each = 100e6;
  double full = 400e6;
  Load load{[&](int n) { return std::min(each * n, full); }};
  load.run(&controller, 300);
  EXPECT_LE(load.last, 8);
  full = 3e9;
  load.run(&controller, 6000);
  EXPECT_GE(load.last, 15);
}

// Where it ends if more reads bring more, as they do while memory is still cold. `used` and `idle`:
// of the processors, by this process and by nobody.
int limit_after(const Distance& distance, double used, double idle) {
  ProcessorTimes times{.used = 1, .idle = 1};
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(distance);
  ConcurrencyController::TimePoint now{1s};
  for (int i = 0; i < 2000; ++i) {
    const auto step = 40ms / controller.limit();
    now += step;
    const double all = kProcessors * std::chrono::duration<double>(step).count();
    times.used += used * all;
    times.idle += idle * all;
    complete(controller, 8 << 20, controller.limit(), {}, now, times);
  }
  return controller.limit();
}

TEST(Concurrency, DoesNotGrowWhereTheProcessorsAreTheBound) {
  EXPECT_LE(limit_after(kNear, 0.9, 0.1), 4);
  EXPECT_GE(limit_after(kNear, 0.3, 0.7), 32);
}

TEST(Concurrency, DoesNotGrowWhereTheServerNeedsTheSameProcessors) {
  EXPECT_EQ(limit_after(kHere, 0.3, 0.05), 4);
  EXPECT_GE(limit_after(kHere, 0.3, 0.5), 32);
  EXPECT_GE(limit_after(kNear, 0.3, 0.05), 32) << "what others do elsewhere does not matter";
}

TEST(Concurrency, StepsBackWhenAsked) {
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 25e6 * n; }};
  load.run(&controller, 2000);
  const int before = controller.limit();
  const ConcurrencyController::TimePoint later{2h};
  for (int i = 0; i < before; ++i) complete(controller, 1, before, {}, later);
  complete(controller, 1, before, asked_to_slow_down(), later);
  EXPECT_LE(controller.limit(), before * 3 / 4);
  EXPECT_GE(controller.limit(), before / 2);
  // Once for what was under way together.
  const int after = controller.limit();
  for (int i = 0; i < after; ++i) complete(controller, 1, after, asked_to_slow_down(), later);
  EXPECT_EQ(controller.limit(), after);
}

TEST(Concurrency, StaysWithinItsBoundsWhateverTheServerAsksFor) {
  SourceTraits traits = remote();
  traits.max_concurrency = 8;
  ConcurrencyController controller(0, traits, kProcessors);
  ConcurrencyController::TimePoint now{1h};
  for (int i = 0; i < 2000; ++i) {
    const ReadReport report = i % 3 == 0 ? asked_to_slow_down() : ReadReport{};
    complete(controller, 1 << 20, controller.limit(), report, now += 5ms);
    ASSERT_GE(controller.limit(), 1);
    ASSERT_LE(controller.limit(), 8);
  }
}

TEST(Concurrency, DoesNotGrowOnBehalfOfASlowConsumer) {
  ConcurrencyController controller(0, remote(), kProcessors);
  ConcurrencyController::TimePoint now{1h};
  for (int i = 0; i < 1000; ++i) complete(controller, 8 << 20, 2, {}, now += 10ms);
  EXPECT_EQ(controller.limit(), 4);
}

}  // namespace
}  // namespace streamer
