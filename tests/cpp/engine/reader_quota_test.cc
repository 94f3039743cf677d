#include "engine/reader_quota.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace streamer {
namespace {

constexpr SourceKind kKind = SourceKind::kS3;
constexpr std::uint64_t kBytes = 100;

class NoReader final : public Reader {
 public:
  Result<Opened> open(const std::string&, std::span<std::byte>) override {
    return Status::error(Code::kUnsupported, "");
  }
  Status read(const Object&, std::uint64_t, std::span<const iovec>, ReadReport*) override {
    return {};
  }
  Status list(const std::string&, bool, const ListCallback&) override { return {}; }
};

class ReaderQuotaTest : public testing::Test {
 protected:
  ReaderQuotaTest() { quota_.add_source(kKind, 2, kBytes); }
  // As a worker does.
  void begin(ReaderSlot* slot) {
    if (quota_.begin(kKind, slot)) {
      slot->reader = std::make_unique<NoReader>();
      ++made_;
    }
  }

  MemoryBudget budget_{MemoryBudget::kUnlimited};
  ReaderQuota quota_{budget_};
  std::atomic<int> made_{0};
};

TEST_F(ReaderQuotaTest, AWorkerKeepsItsReader) {
  ReaderSlot slot;
  for (int i = 0; i < 3; ++i) {
    begin(&slot);
    begin(&slot);  // in the same job
    EXPECT_NE(slot.reader, nullptr);
    quota_.end(kKind, &slot);
  }
  EXPECT_EQ(made_, 1);
  EXPECT_EQ(budget_.used(), kBytes);
  EXPECT_NE(quota_.drop(kKind, &slot), nullptr);
  EXPECT_EQ(quota_.drop(kKind, &slot), nullptr);
  EXPECT_EQ(budget_.used(), 0u);
}

TEST_F(ReaderQuotaTest, ReadersLeaveRoomForTheLargestBlock) {
  constexpr SourceKind kOther = SourceKind::kGcs;
  quota_.add_source(kKind, 6, kBytes);
  quota_.add_source(kOther, 3, kBytes / 2, kBytes / 2);
  budget_.set_limit(10 * kBytes);
  budget_.set_aside(9 * kBytes);
  std::vector<ReaderSlot> slots(6);
  for (ReaderSlot& slot : slots) begin(&slot);
  for (int i = 0; i < 3; ++i) quota_.end(kKind, &slots[i]);
  quota_.make_room(7 * kBytes);
  EXPECT_EQ(quota_.most(kKind), 2);
  EXPECT_EQ(quota_.most(kOther), 1);
  EXPECT_EQ(budget_.set_aside_bytes(), 3 * kBytes);
  // The idle ones are gone at once, those in use when their jobs end.
  EXPECT_EQ(budget_.used(), 3 * kBytes);
  EXPECT_TRUE(budget_.readers_exceed());
  for (int i = 3; i < 6; ++i) quota_.end(kKind, &slots[i]);
  EXPECT_FALSE(budget_.readers_exceed());
  EXPECT_EQ(budget_.used(), 2 * kBytes);
  EXPECT_TRUE(budget_.try_take(7 * kBytes));
  // A smaller block changes nothing, and one of each kind stays whatever the limit.
  quota_.make_room(kBytes);
  EXPECT_EQ(quota_.most(kKind), 2);
  quota_.make_room(10 * kBytes);
  EXPECT_EQ(quota_.most(kKind), 1);
  EXPECT_EQ(quota_.most(kOther), 1);
  for (ReaderSlot& slot : slots) quota_.drop(kKind, &slot);
}

TEST_F(ReaderQuotaTest, ManyWorkersShareFewReaders) {
  std::vector<ReaderSlot> slots(6);
  for (int round = 0; round < 2; ++round) {
    for (ReaderSlot& slot : slots) {
      begin(&slot);
      EXPECT_NE(slot.reader, nullptr);
      quota_.end(kKind, &slot);
    }
  }
  EXPECT_EQ(made_, 2);
  EXPECT_EQ(budget_.peak(), 2 * kBytes);
  for (ReaderSlot& slot : slots) quota_.drop(kKind, &slot);
}

TEST_F(ReaderQuotaTest, WhoFindsNoneWaitsForOne) {
  std::atomic<int> in_use{0};
  std::atomic<int> most{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < 8; ++i) {
    workers.emplace_back([&] {
      ReaderSlot slot;
      for (int job = 0; job < 200; ++job) {
        begin(&slot);
        const int now = ++in_use;
        for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
        }
        std::this_thread::yield();
        --in_use;
        if (job % 50 == 49) {
          quota_.drop(kKind, &slot);  // a job that was ended by an exception
        } else {
          quota_.end(kKind, &slot);
        }
      }
      quota_.drop(kKind, &slot);
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_LE(most, 2);
  EXPECT_EQ(budget_.peak(), 2 * kBytes);
  EXPECT_EQ(budget_.used(), 0u);
}

TEST_F(ReaderQuotaTest, AReaderThatCouldNotBeMadeLeavesItsPlace) {
  ReaderSlot slots[3];
  for (ReaderSlot& slot : slots) {
    EXPECT_TRUE(quota_.begin(kKind, &slot));
    quota_.end(kKind, &slot);
  }
  EXPECT_EQ(budget_.used(), 0u);
}

}  // namespace
}  // namespace streamer
