// Trials of file systems that are functions of time.
#include "source/file/read_trial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <random>
#include <vector>

#include "base/memory_units.h"

namespace streamer {
namespace {

constexpr std::uint64_t kRead = 2 * kMiB;

// Seconds that a read takes by this setting while `active` are in flight.
using Storage = std::function<double(ReadTrial::Setting setting, int active)>;

struct Load {
  double seconds = 0;
  std::vector<ReadTrial::Setting> settings;  // in order, each once
  int at_once = 0;                           // reads that were not to be the only one
};

// Reads `count` times, with as many reads in flight as the trial wants, at most `most`.
Load read(ReadTrial& trial, const Storage& storage, int count, int most = 1000) {
  struct Event {
    double time;
    double began;
    ReadTrial::Read read;
    bool operator<(const Event& other) const { return time > other.time; }
  };
  Load load;
  std::priority_queue<Event> events;
  int begun = 0;
  double now = 0;
  while (begun < count || !events.empty()) {
    while (begun < count &&
           static_cast<int>(events.size()) < std::min(trial.setting().reads, most)) {
      const ReadTrial::Read turn = trial.begin();
      ++begun;
      if (turn.setting.reads > 1) ++load.at_once;
      if (load.settings.empty() || !(load.settings.back() == turn.setting)) {
        load.settings.push_back(turn.setting);
      }
      const int active = static_cast<int>(events.size()) + 1;
      events.push({now + storage(turn.setting, active), now, turn});
    }
    const Event next = events.top();
    events.pop();
    now = next.time;
    trial.ended(next.read, kRead, now - next.began);
  }
  load.seconds = now;
  return load;
}

double fixed(const Storage& storage, int count, int reads) {
  ReadTrial trial(reads);
  return read(trial, storage, count).seconds;
}

// Requests wait for the far end, and share a link.
Storage far_away(double seconds, double link) {
  return [=](ReadTrial::Setting, int active) {
    return std::max(seconds, active * static_cast<double>(kRead) / link);
  };
}

// What is read in order was fetched ahead. All else waits for its turn, and then for a new request.
Storage in_order(double rate, double jump) {
  return [=](ReadTrial::Setting setting, int active) {
    const double bytes = static_cast<double>(kRead) / rate;
    return setting.reads == 1 ? bytes : active * (bytes + jump);
  };
}

TEST(ReadTrial, AMountThatFetchesAheadIsReadInOrder) {
  const Storage storage = in_order(400e6, 0.04);
  ReadTrial trial(0);
  const Load load = read(trial, storage, 512);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting(), (ReadTrial::Setting{false, 1}));
  EXPECT_LT(load.seconds, 1.3 * fixed(storage, 512, 1));
  EXPECT_LE(load.at_once, 14);
}

// Several wait for the same jump: the more there are, the less it costs each of them. It costs more
// by the page cache, where the kernel asks for less at once.
TEST(ReadTrial, ReadsThatJumpTogetherDoNotTryThePageCache) {
  const Storage storage = [](ReadTrial::Setting setting, int active) {
    const double bytes = static_cast<double>(kRead) / 400e6;
    if (setting.reads == 1) return bytes;
    return setting.direct ? active * bytes + 0.08 : active * (bytes + 0.64);
  };
  ReadTrial trial(0);
  const Load load = read(trial, storage, 512);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting(), (ReadTrial::Setting{false, 1}));
  EXPECT_LT(load.seconds, 1.5 * fixed(storage, 512, 1));
}

// Of reads that jump, most find what was fetched ahead for the one that waits. Those end first.
TEST(ReadTrial, ASlowReadCountsAlthoughManyFastOnesEndBeforeIt) {
  int reads = 0;
  const Storage storage = [&reads](ReadTrial::Setting setting, int active) {
    const double bytes = static_cast<double>(kRead) / 400e6;
    if (setting.reads == 1) return bytes;
    return ++reads % 4 == 0 ? 20 * active * bytes : bytes / 10;
  };
  ReadTrial trial(0);
  read(trial, storage, 512);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting(), (ReadTrial::Setting{false, 1}));
}

// Processors that others use: every read waits a while, and some wait for long.
class BusyMachine {
 public:
  explicit BusyMachine(unsigned seed) : random_(seed) {}
  // From 0 to 1.
  double part() { return part_(random_); }
  // Of a read that takes at least `least` seconds.
  double seconds(double least) {
    const double usual = least + 0.01 * part();
    return part() < 0.1 ? usual + 0.05 * part() : usual;
  }

 private:
  std::mt19937 random_;
  std::uniform_real_distribution<double> part_{0, 1};
};

// Two threads get more of the processors than one. Of reads that could jump, some don't, because
// they happen to run one after another.
TEST(ReadTrial, ABusyMachineDoesNotMakeJumpsPay) {
  int wrong = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    BusyMachine machine(seed);
    ReadTrial trial(0);
    read(
        trial,
        [&](ReadTrial::Setting setting, int active) {
          const double seconds = machine.seconds(0.005);
          if (setting.reads == 1) return seconds;
          const double jump = machine.part() < 0.7 ? 0.04 : 0;
          return seconds / 1.5 * active + jump * active;
        },
        256);
    wrong += trial.decided() && trial.setting().reads == 1 ? 0 : 1;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(ReadTrial, ABusyMachineDoesNotHideWhatManyReadsBring) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    BusyMachine machine(seed);
    ReadTrial trial(0);
    read(
        trial, [&](ReadTrial::Setting, int) { return machine.seconds(0.02); }, 1024);
    EXPECT_GE(trial.setting().reads, 16) << seed;
  }
}

// Many more reads than the processors can serve are as fast, and hardly more than a few.
TEST(ReadTrial, TooManyAreTakenRatherThanTooFewWhereSeveralArePlainlyFaster) {
  const Storage storage = [](ReadTrial::Setting setting, int active) {
    if (setting.reads == 1) return 0.04;
    return std::max(0.01, active * 0.0026);
  };
  ReadTrial trial(0);
  read(trial, storage, 1024);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting().reads, 32);
}

// As fast as a link allows, with two reads.
TEST(ReadTrial, ASmallGainIsMeasuredTwice) {
  const Storage storage = far_away(0.02, 2 * static_cast<double>(kRead) / 0.02);
  ReadTrial trial(0);
  const Load load = read(trial, storage, 512);
  EXPECT_EQ(trial.setting().reads, 2);
  const auto in_order = [](const ReadTrial::Setting& setting) { return setting.reads == 1; };
  EXPECT_EQ(std::count_if(load.settings.begin(), load.settings.end(), in_order), 2);
}

// What is fetched ahead can be faster than a few reads, and slower than many.
TEST(ReadTrial, MuchReadaheadDoesNotHideWhatManyReadsBring) {
  const Storage storage = [](ReadTrial::Setting setting, int active) {
    if (setting.reads == 1) return static_cast<double>(kRead) / 750e6;
    return std::max(0.02, active * static_cast<double>(kRead) / 10e9);
  };
  ReadTrial trial(0);
  read(trial, storage, 4096);
  EXPECT_GE(trial.setting().reads, 64);
}

TEST(ReadTrial, TheNumberOfReadsFollowsTheDistance) {
  for (const double milliseconds : {1.0, 5.0, 20.0}) {
    const Storage storage = far_away(milliseconds / 1e3, 5e9);
    double best = 1e9;
    constexpr int kCount = 16384;
    for (const int reads : {1, 8, 16, 32, 64, 128}) {
      best = std::min(best, fixed(storage, kCount, reads));
    }
    ReadTrial trial(0);
    EXPECT_LT(read(trial, storage, kCount).seconds, best / 0.9) << milliseconds;
    EXPECT_TRUE(trial.decided());
  }
}

TEST(ReadTrial, DirectReadsAreUsedWhereTheyAreFaster) {
  for (const double faster : {0.5, 3.0}) {
    ReadTrial trial(0);
    read(
        trial,
        [=](ReadTrial::Setting setting, int) { return 0.02 / (setting.direct ? faster : 1); },
        1024);
    EXPECT_EQ(trial.setting().direct, faster > 1) << faster;
  }
}

TEST(ReadTrial, AFileSystemWithoutDirectReadsIsReadByThePageCache) {
  const Storage storage = far_away(0.01, 2e9);
  ReadTrial trial(0);
  trial.refuse_direct();
  const Load load = read(trial, storage, 1024);
  for (const ReadTrial::Setting& setting : load.settings) EXPECT_FALSE(setting.direct);
  // The refusal may come late, too.
  ReadTrial late(0);
  read(
      late, [](ReadTrial::Setting setting, int) { return setting.direct ? 0.005 : 0.02; }, 1024);
  ASSERT_TRUE(late.setting().direct);
  const int reads = late.setting().reads;
  late.refuse_direct();
  EXPECT_EQ(late.setting(), (ReadTrial::Setting{false, reads}));
}

TEST(ReadTrial, AFewReadersAskForManyRequestsAtOnceWhereThatIsFaster) {
  for (const double faster : {0.5, 1.0, 3.0}) {
    ReadTrial trial(0);
    trial.refuse_direct();
    const Load load = read(
        trial, [=](ReadTrial::Setting setting, int) { return 0.02 / (setting.whole ? faster : 1); },
        1024);
    EXPECT_TRUE(trial.decided());
    EXPECT_EQ(trial.setting(), (ReadTrial::Setting{false, 16, faster > 1})) << faster;
    for (const ReadTrial::Setting& setting : load.settings) {
      EXPECT_TRUE(!setting.whole || setting.reads == 16);
    }
  }
}

// Readers of the page cache have a descriptor each, of which there are few.
TEST(ReadTrial, ReadersDoNotShareADescriptor) {
  ReadTrial trial(0);
  const Load load = read(
      trial, [](ReadTrial::Setting setting, int) { return setting.direct ? 1.0 : 0.02; }, 1024);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting(), (ReadTrial::Setting{false, 16}));
  for (const ReadTrial::Setting& setting : load.settings) {
    EXPECT_TRUE(setting.direct || setting.reads <= 16);
  }
}

TEST(ReadTrial, ANumberThatTheUserChoseIsKept) {
  for (const int chosen : {1, 3, 200}) {
    ReadTrial trial(chosen);
    const Load load = read(trial, far_away(0.01, 5e9), 2048);
    for (const ReadTrial::Setting& setting : load.settings) EXPECT_EQ(setting.reads, chosen);
    EXPECT_TRUE(trial.decided());
  }
}

TEST(ReadTrial, AShortPauseOfTheConsumerDoesNotCount) {
  const Storage storage = far_away(0.02, 100e9);
  ReadTrial trial(0);
  read(trial, storage, 30, /*most=*/2);  // memory for two reads
  EXPECT_FALSE(trial.decided());
  read(trial, storage, 2000);
  EXPECT_TRUE(trial.decided());
  EXPECT_EQ(trial.setting().reads, ReadTrial::kMostReads);
}

TEST(ReadTrial, WhereMemoryBoundsTheReadsTheTrialEnds) {
  ReadTrial jumps(0);
  read(jumps, in_order(400e6, 0.04), 200, /*most=*/2);
  EXPECT_TRUE(jumps.decided());
  EXPECT_EQ(jumps.setting().reads, 1);
  ReadTrial distance(0);
  read(distance, far_away(0.02, 100e9), 200, /*most=*/2);
  EXPECT_TRUE(distance.decided());
  EXPECT_EQ(distance.setting().reads, 2);
}

TEST(ReadTrial, FailedReadsTellNothing) {
  ReadTrial trial(0);
  for (int i = 0; i < 100; ++i) trial.ended(trial.begin(), 0, 0.001);
  EXPECT_FALSE(trial.decided());
  EXPECT_EQ(trial.setting().reads, 1);
}

}  // namespace
}  // namespace streamer
