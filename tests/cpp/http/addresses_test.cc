#include "source/http/client/addresses.h"

#include <gtest/gtest.h>
#include <netdb.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

namespace streamer::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using TimePoint = Clock::time_point;

constexpr TimePoint kStart{};

std::vector<std::string> addresses(int number) {
  std::vector<std::string> out;
  for (int i = 1; i <= number; ++i) out.push_back("10.0.0." + std::to_string(i));
  return out;
}

// Opens a connection to the address that comes first.
std::string open(AddressTable* table, TimePoint now) {
  const std::string address = table->order(now).front();
  table->opened(address);
  return address;
}

TEST(AddressTable, SpreadsConnectionsEvenly) {
  AddressTable table;
  table.set(addresses(8));
  std::map<std::string, int> connections;
  for (int i = 0; i < 64; ++i) ++connections[open(&table, kStart)];
  ASSERT_EQ(connections.size(), 8u);
  for (const auto& [address, number] : connections) EXPECT_EQ(number, 8) << address;
}

TEST(AddressTable, KeepsTheBalanceWhileConnectionsComeAndGo) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    AddressTable table;
    const int number = 1 + static_cast<int>(random() % 8);
    table.set(addresses(number));
    std::map<std::string, int> connections;
    std::vector<std::string> open_ones;
    for (int i = 0; i < 300; ++i) {
      if (!open_ones.empty() && random() % 3 == 0) {
        std::swap(open_ones[random() % open_ones.size()], open_ones.back());
        table.closed(open_ones.back());
        --connections[open_ones.back()];
        open_ones.pop_back();
      }
      const std::string chosen = open(&table, kStart);
      for (const auto& [address, used] : connections) ASSERT_LE(connections[chosen], used);
      ++connections[chosen];
      open_ones.push_back(chosen);
    }
  }
}

TEST(AddressTable, ComesFirstInTurns) {
  AddressTable table;
  table.set(addresses(3));
  std::map<std::string, int> first;
  for (int i = 0; i < 30; ++i) ++first[table.order(kStart).front()];
  for (const auto& [address, times] : first) EXPECT_EQ(times, 10) << address;
}

TEST(AddressTable, AvoidsWhatFailsAndTriesItAgainLater) {
  AddressTable table;
  table.set(addresses(4));
  table.failed("10.0.0.2", kStart);
  for (int i = 0; i < 12; ++i) EXPECT_NE(open(&table, kStart + seconds(1)), "10.0.0.2");
  EXPECT_EQ(table.order(kStart + seconds(1)).back(), "10.0.0.2");
  EXPECT_EQ(table.order(kStart + seconds(200)).front(), "10.0.0.2");
}

TEST(AddressTable, AvoidsWhatLagsMoreThanTheOthers) {
  AddressTable table;
  table.set(addresses(4));
  for (const std::string& address : addresses(4)) table.lagged(address, kStart);
  for (int i = 0; i < 4; ++i) table.lagged("10.0.0.3", kStart);
  std::map<std::string, int> connections;
  for (int i = 0; i < 30; ++i) ++connections[open(&table, kStart)];
  EXPECT_LE(connections["10.0.0.3"], 1);
  EXPECT_GE(connections["10.0.0.1"], 9);
}

TEST(AddressTable, FaultsThatAllHaveDoNotMatter) {
  AddressTable table;
  table.set(addresses(4));
  for (int i = 0; i < 50; ++i) {
    for (const std::string& address : addresses(4)) table.failed(address, kStart);
  }
  std::map<std::string, int> connections;
  for (int i = 0; i < 40; ++i) ++connections[open(&table, kStart)];
  for (const std::string& address : addresses(4)) EXPECT_EQ(connections[address], 10);
}

TEST(AddressTable, PrefersTheFamilyThatTheResolverPutsFirst) {
  AddressTable table;
  table.set({"fd00::1", "10.0.0.1", "fd00::2"});
  for (int i = 0; i < 10; ++i) EXPECT_NE(open(&table, kStart), "10.0.0.1");
  for (const char* address : {"fd00::1", "fd00::2"}) {
    table.failed(address, kStart);
    table.failed(address, kStart);
  }
  EXPECT_EQ(open(&table, kStart), "10.0.0.1");
}

TEST(AddressTable, KeepsWhatItKnowsOfAddressesThatStay) {
  AddressTable table;
  table.set(addresses(2));
  table.failed("10.0.0.1", kStart);
  table.set({"10.0.0.1", "10.0.0.9", "10.0.0.9"});
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.order(kStart).front(), "10.0.0.9");
  table.closed("10.0.0.2");  // of a connection that is older than the answer
  table.lagged("10.0.0.2", kStart);
}

bool yes() { return true; }

TEST(Addresses, OneQuestionServesAllThatWait) {
  std::atomic<int> asked{0};
  Addresses hosts([&](const std::string&, std::vector<std::string>* out) {
    ++asked;
    std::this_thread::sleep_for(milliseconds(20));
    *out = addresses(4);
    return 0;
  });
  std::vector<std::thread> threads;
  std::atomic<int> found{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      if (hosts.find("store", TimePoint::max(), yes).addresses.size() == 4) ++found;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found, 8);
  EXPECT_EQ(asked, 1);
}

TEST(Addresses, AFailureIsAskedAboutAgain) {
  std::atomic<int> asked{0};
  Addresses hosts([&](const std::string&, std::vector<std::string>* out) {
    if (asked++ == 0) return EAI_AGAIN;
    *out = addresses(1);
    return 0;
  });
  EXPECT_EQ(hosts.find("store", TimePoint::max(), yes).error, EAI_AGAIN);
  EXPECT_EQ(hosts.find("store", TimePoint::max(), yes).addresses.size(), 1u);
}

TEST(Addresses, NumbersAndThisMachineNeedNoResolver) {
  Addresses hosts([](const std::string& host, std::vector<std::string>*) {
    ADD_FAILURE() << host;
    return EAI_NONAME;
  });
  for (const char* host : {"10.0.0.1", "[::1]", "localhost", "s3.localhost", "LOCALHOST."}) {
    const auto found = hosts.find(host, TimePoint::max(), yes);
    EXPECT_TRUE(found.addresses.empty() && found.error == 0 && !found.late) << host;
  }
}

// A resolver that hangs is left behind, with what it needs.
TEST(Addresses, WaitsNoLongerThanItIsTold) {
  auto hang = std::make_shared<std::atomic<bool>>(true);
  {
    Addresses hosts([hang](const std::string&, std::vector<std::string>* out) {
      while (*hang) std::this_thread::sleep_for(milliseconds(1));
      *out = addresses(1);
      return 0;
    });
    EXPECT_TRUE(hosts.find("store", Clock::now() + milliseconds(5), yes).late);
    EXPECT_TRUE(hosts.find("store", TimePoint::max(), [] { return false; }).late);
  }
  *hang = false;
}

TEST(Addresses, LeasesOutliveTheirOwner) {
  AddressLease lease;
  {
    Addresses hosts([](const std::string&, std::vector<std::string>* out) {
      *out = addresses(2);
      return 0;
    });
    const auto first = hosts.find("store", TimePoint::max(), yes).addresses.front();
    lease = hosts.lease("store", first);
    for (int i = 0; i < 4; ++i) {
      EXPECT_NE(hosts.find("store", TimePoint::max(), yes).addresses.front(), first);
    }
  }
  lease.reset();
}

}  // namespace
}  // namespace streamer::http
