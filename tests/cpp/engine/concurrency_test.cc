#include "engine/concurrency.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>

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

// A read ended; the process has used so many seconds of processors, if the controller wants to
// know, and the others have received so many bytes.
void complete(ConcurrencyController& controller, std::uint64_t bytes, int active,
              const ReadReport& report, ConcurrencyController::TimePoint now, double used = 0,
              std::uint64_t in_flight = 0) {
  if (controller.completed(bytes, active, report, now)) controller.measured(used, in_flight, now);
}

// A storage whose bytes per second depend on the number of connections, on a clock of its own.
// Returns the rate of the whole load, relative to the best of all fixed numbers.
struct Load {
  std::function<double(int)> rate;  // bytes per second of n connections
  double seconds = 0;
  std::uint64_t bytes = 0;
  int last = 0;
  bool watched = false;  // reads tell what they have received
  int awaited = 0;       // a number
  double reached = 1e9;  // when it was allowed first

  void run(ConcurrencyController* controller, int reads, double noise = 0.1) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> spread(1 - noise, 1 + noise);
    const ConcurrencyController::TimePoint origin{1h};
    std::multimap<double, double> ends;  // of reads, and their beginnings
    for (int started = 0; started < reads || !ends.empty();) {
      while (started < reads && static_cast<int>(ends.size()) < controller->limit()) {
        const int active = static_cast<int>(ends.size()) + 1;
        ends.emplace(seconds + kChunk * active / rate(active) * spread(random), seconds);
        ++started;
      }
      const int active = static_cast<int>(ends.size());
      if (controller->limit() >= awaited) reached = std::min(reached, seconds);
      seconds = ends.begin()->first;
      ends.erase(ends.begin());
      bytes += static_cast<std::uint64_t>(kChunk);
      complete(*controller, static_cast<std::uint64_t>(kChunk), active, {},
               origin + std::chrono::duration_cast<std::chrono::nanoseconds>(
                            std::chrono::duration<double>(seconds)),
               /*used=*/0, watched ? received(ends) : 0);
    }
    last = controller->limit();
  }
  std::uint64_t received(const std::multimap<double, double>& reads) const {
    double sum = 0;
    for (const auto& [end, start] : reads) sum += kChunk * (seconds - start) / (end - start);
    return static_cast<std::uint64_t>(sum);
  }
  double achieved() const { return static_cast<double>(bytes) / seconds; }
};

constexpr Proximity kNear{.latency = 0.001};
constexpr Proximity kFar{.latency = 0.02};
constexpr Proximity kVeryFar{.latency = 0.15};

TEST(Concurrency, FixedIsFixed) {
  ConcurrencyController controller(7, remote(), kProcessors);
  controller.start(kFar);
  Load load{[](int n) { return 1e8 * n; }};
  load.run(&controller, 500);
  EXPECT_EQ(load.last, 7);
  EXPECT_EQ(controller.maximum(), 7);
}

TEST(Concurrency, TheStartIsLeftAloneOnceSomethingWasRead) {
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 25e6 * n; }};
  load.run(&controller, 2000);
  EXPECT_GE(load.last, 48);
  controller.start(kVeryFar);
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
  for (const auto& [distance, first] :
       {std::pair(kNear, 4), std::pair(kFar, 8), std::pair(kVeryFar, 60)}) {
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

TEST(Concurrency, ComesBackFromAFullLongLink) {
  // Whatever is tried beyond 8 costs a third.
  const auto rate = [](int n) { return n <= 8 ? 150e6 * n : 0.8e9; };
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(kFar);
  Load load{rate};
  load.run(&controller, 800);
  EXPECT_GE(load.achieved(), 0.9 * 1.2e9);
}

TEST(Concurrency, BeginsWithWhatTheTargetNeeds) {
  SourceTraits traits = remote();
  traits.max_concurrency = 1024;
  traits.target_rate = 100e9 / 8;
  ConcurrencyController controller(0, traits, kProcessors);
  EXPECT_GE(controller.limit(), 150);
  EXPECT_LE(controller.limit(), 300);
  controller.start(kVeryFar);
  EXPECT_GE(controller.limit(), 150) << "the target says more than the distance";
  EXPECT_EQ(ConcurrencyController(7, traits, kProcessors).limit(), 7);
}

// Connections of a rate, on a link: the number that it ends with, and how soon 90 % of what can be
// had are there.
struct LinkOutcome {
  int connections;
  double seconds;
};
LinkOutcome on_a_link(double each, double link) {
  SourceTraits traits = remote();
  traits.max_concurrency = 1024;
  traits.chunk_bytes = static_cast<std::uint64_t>(kChunk);
  ConcurrencyController controller(0, traits, 64);
  controller.start(kFar);
  const int needed = static_cast<int>(0.9 * std::min(link / each, 1024.0));
  Load load{[&](int n) { return std::min(each * n, link); }};
  load.awaited = needed;
  load.watched = true;
  load.run(&controller, 20'000);
  return {load.last, load.reached};
}

TEST(Concurrency, FillsLinksOfEveryKindWithinTwoSeconds) {
  for (const double each : {85e6, 120e6, 150e6, 300e6}) {
    for (const double link : {12.5e9, 50e9}) {
      const LinkOutcome outcome = on_a_link(each, link);
      EXPECT_LE(outcome.seconds, 2) << each << " of " << link;
      EXPECT_LE(outcome.connections, 2 * link / each + 8) << each << " of " << link;
    }
  }
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

// Where it ends if more reads bring more, while the process uses a part of the processors.
int limit_after(double used_part) {
  double used = 1;
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.start(kNear);
  ConcurrencyController::TimePoint now{1s};
  for (int i = 0; i < 2000; ++i) {
    const auto step = 40ms / controller.limit();
    now += step;
    used += used_part * kProcessors * std::chrono::duration<double>(step).count();
    complete(controller, 8 << 20, controller.limit(), {}, now, used);
  }
  return controller.limit();
}

TEST(Concurrency, DoesNotGrowWhereTheProcessorsAreTheBound) {
  EXPECT_LE(limit_after(0.9), 4);
  EXPECT_GE(limit_after(0.3), 32);
}

TEST(Concurrency, SaysWhatBoundsIt) {
  using Bound = ConcurrencyController::Bound;
  EXPECT_EQ(ConcurrencyController(7, remote(), kProcessors).bound(), Bound::kConnections);
  ConcurrencyController full(0, remote(), kProcessors);
  EXPECT_EQ(full.bound(), Bound::kUnknown);
  Load link{[](int n) { return std::min(100e6 * n, 1e9); }};
  link.run(&full, 2000);
  EXPECT_EQ(full.bound(), Bound::kLink);
  ConcurrencyController many(0, remote(), kProcessors);
  Load slow{[](int n) { return 10e6 * n; }};
  slow.run(&many, 4000);
  EXPECT_EQ(many.bound(), Bound::kConnections);
}

TEST(Concurrency, StepsBackWhenAsked) {
  ConcurrencyController controller(0, remote(), kProcessors);
  Load load{[](int n) { return 25e6 * n; }};
  load.run(&controller, 2000);
  const int before = controller.limit();
  const ConcurrencyController::TimePoint later{2h};
  for (int i = 0; i < before; ++i) complete(controller, 1, before, {}, later);
  controller.refused();
  EXPECT_LE(controller.limit(), before * 3 / 4);
  EXPECT_GE(controller.limit(), before / 2);
  // Once for what was in flight together.
  const int after = controller.limit();
  for (int i = 0; i < before; ++i) {
    controller.refused();
    EXPECT_EQ(controller.limit(), after);
    complete(controller, 1, after, {}, later);
  }
  controller.refused();
  EXPECT_LT(controller.limit(), after);
}

TEST(Concurrency, StepsBackWhenAskedAtOnce) {
  ConcurrencyController controller(0, remote(), kProcessors);
  controller.refused();
  EXPECT_LT(controller.limit(), 4);
  const int after = controller.limit();
  controller.start(kVeryFar);
  EXPECT_EQ(controller.limit(), after);
}

// As many bytes take fewer requests then.
TEST(Concurrency, TriesMoreSoonerAfterARefusalIfReadsGrew) {
  const auto reads_until_it_grows = [](bool larger) {
    ConcurrencyController controller(0, remote(), kProcessors);
    controller.refused();
    if (larger) controller.reads_grew();
    const int after = controller.limit();
    ConcurrencyController::TimePoint now{1h};
    int reads = 0;
    for (; reads < 10000 && controller.limit() <= after; ++reads) {
      complete(controller, 8 << 20, controller.limit(), {}, now += 20ms);
    }
    return reads;
  };
  EXPECT_LT(reads_until_it_grows(true), reads_until_it_grows(false) / 2);
  EXPECT_LT(reads_until_it_grows(false), 10000);
}

TEST(Concurrency, StaysWithinItsBoundsWhateverTheServerAsksFor) {
  SourceTraits traits = remote();
  traits.max_concurrency = 8;
  ConcurrencyController controller(0, traits, kProcessors);
  ConcurrencyController::TimePoint now{1h};
  for (int i = 0; i < 2000; ++i) {
    if (i % 3 == 0) controller.refused();
    complete(controller, 1 << 20, controller.limit(), {}, now += 5ms);
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
