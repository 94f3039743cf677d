// The staging path by itself: slots, copies and their ends.
#include <cstring>
#include <fstream>
#include <thread>

#include "cuda/destination_fixture.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

TEST_F(DestinationTest, CopiesBytes) {
  const auto bytes = content(3 * kMiB + 17);
  const DeviceMemory memory(bytes.size());
  {
    auto destination = make();
    copy(*destination, stage(*destination, bytes), memory);
    EXPECT_TRUE(reports_.wait_for(1)[0].ok());
    EXPECT_EQ(memory.bytes(), bytes);
    EXPECT_GT(budget_.used(), bytes.size());
    EXPECT_EQ(counts().pinned_bytes, budget_.used());
  }
  EXPECT_EQ(budget_.used(), 0U);
}

TEST_F(DestinationTest, ScattersAndMergesNeighbours) {
  const auto bytes = content(4096);
  const DeviceMemory one(1024);
  const DeviceMemory two(3072);
  auto destination = make();
  const std::vector<iovec> segments{
      {one.data, 512}, {one.data + 512, 512}, {two.data + 1024, 2048}, {two.data, 1024}};
  destination->copy(stage(*destination, bytes), segments, reports_.sink());
  EXPECT_TRUE(reports_.wait_for(1)[0].ok());
  EXPECT_EQ(counts().copies, 3U);
  EXPECT_EQ(std::memcmp(one.data, bytes.data(), 1024), 0);
  EXPECT_EQ(std::memcmp(two.data + 1024, bytes.data() + 1024, 2048), 0);
  EXPECT_EQ(std::memcmp(two.data, bytes.data() + 3072, 1024), 0);
}

TEST_F(DestinationTest, PlacesBytesInThePageAsTheyAreInTheFile) {
  auto destination = make();
  std::size_t done = 0;
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{12345}, 5 * kMiB + 4095}) {
    auto slot = destination->stage(2 * kMiB, offset, cancel_);
    ASSERT_TRUE(slot.ok());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot->data) % 4096, offset % 4096);
    EXPECT_GE(slot->size, 2 * kMiB);
    const auto bytes = content(2 * kMiB);
    std::memcpy(slot->data, bytes.data(), bytes.size());
    const DeviceMemory memory(bytes.size());
    copy(*destination, *slot, memory);
    ++done;
    EXPECT_TRUE(reports_.wait_for(done).back().ok());
    EXPECT_EQ(memory.bytes(), bytes);
  }
}

TEST_F(DestinationTest, RegistersOnceAndReuses) {
  auto destination = make();
  const DeviceMemory memory(kMiB);
  for (std::uint32_t round = 0; round < 50; ++round) {
    const auto bytes = content(kMiB, round);
    copy(*destination, stage(*destination, bytes), memory);
    EXPECT_TRUE(reports_.wait_for(round + 1)[round].ok());
    EXPECT_EQ(memory.bytes(), bytes);
  }
  EXPECT_EQ(counts().registrations, 1U);
}

TEST_F(DestinationTest, NeverTouchesASlotBeforeItsCopyIsDone) {
  auto destination = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(9 * kMiB)}});
  std::vector<std::unique_ptr<DeviceMemory>> memories;
  standin_hold(1);
  for (std::uint32_t i = 0; i < 4; ++i) {
    memories.push_back(std::make_unique<DeviceMemory>(2 * kMiB - 4096));
    copy(*destination, stage(*destination, content(2 * kMiB - 4096, i)), *memories.back());
  }
  EXPECT_EQ(reports_.count(), 0U);
  // All slots wait for the device: the next reader has to.
  std::thread reader([&] {
    memories.push_back(std::make_unique<DeviceMemory>(2 * kMiB - 4096));
    copy(*destination, stage(*destination, content(2 * kMiB - 4096, 4)), *memories.back());
  });
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(counts().registrations, 4U);
  standin_hold(0);
  reader.join();
  for (const Status& status : reports_.wait_for(5)) EXPECT_TRUE(status.ok());
  for (std::uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(memories[i]->bytes(), content(2 * kMiB - 4096, i)) << i;
  }
  EXPECT_EQ(counts().registrations, 4U);
}

TEST_F(DestinationTest, DoesNotPinMoreWhileTheLinkIsTheLimit) {
  budget_.set_limit(kGiB);
  auto destination = make();
  standin_hold(1);
  std::vector<std::unique_ptr<DeviceMemory>> memories;
  // 16 slots of 2 MiB in flight are enough for any link.
  for (std::uint32_t i = 0; i < 16; ++i) {
    memories.push_back(std::make_unique<DeviceMemory>(2 * kMiB));
    copy(*destination, stage(*destination, content(2 * kMiB, i)), *memories.back());
  }
  std::thread release([] {
    std::this_thread::sleep_for(milliseconds(50));
    standin_hold(0);
  });
  auto slot = destination->stage(2 * kMiB, 0, cancel_);
  ASSERT_TRUE(slot.ok());
  destination->discard(*slot);
  release.join();
  reports_.wait_for(16);
  EXPECT_EQ(counts().registrations, 16U);
}

TEST_F(DestinationTest, StaysWithinTheMemoryLimitButAlwaysWorks) {
  budget_.set_limit(256 << 10);
  auto destination = make();
  EXPECT_LE(destination->max_slot_bytes(), 64U << 10);
  const auto bytes = content(destination->max_slot_bytes());
  const DeviceMemory memory(bytes.size());
  for (std::uint32_t i = 0; i < 20; ++i) copy(*destination, stage(*destination, bytes), memory);
  reports_.wait_for(20);
  EXPECT_LE(budget_.peak(), 256U << 10);
  // With nothing left of the budget there is still one slot.
  destination.reset();
  budget_.take(256 << 10);
  destination = make();
  copy(*destination, stage(*destination, bytes), memory);
  EXPECT_TRUE(reports_.wait_for(21)[20].ok());
  EXPECT_EQ(counts().pinned_bytes, (64U << 10) + 4096);
  budget_.give_back(256 << 10);
}

TEST_F(DestinationTest, PoolsOfOneStreamShareWhatMayBePinned) {
  const std::uint64_t most = 8 * (2 * kMiB + kDirectAlignment);
  standin_use(1);
  auto first = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(most)}}, 0);
  auto second = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(most)}}, 1);
  const auto bytes = content(2 * kMiB - 4096);
  const DeviceMemory memory(bytes.size());
  std::vector<StagingSlot> slots;
  for (int i = 0; i < 8; ++i) slots.push_back(stage(*first, bytes));
  EXPECT_EQ(budget_.used(), most);
  first->share(2);
  second->share(2);
  EXPECT_EQ(budget_.used(), most);  // none of them is back
  for (std::size_t i = 0; i < slots.size(); ++i) {
    copy(*first, slots[i], memory);
    EXPECT_TRUE(reports_.wait_for(i + 1)[i].ok());
  }
  EXPECT_EQ(budget_.used(), most / 2);
  EXPECT_EQ(memory.bytes(), bytes);
  slots.clear();
  for (int i = 0; i < 4; ++i) slots.push_back(stage(*second, bytes));
  EXPECT_EQ(budget_.used(), most);
  for (const StagingSlot& slot : slots) second->discard(slot);
}

TEST_F(DestinationTest, SmallSlotsMakeRoomForLargeOnes) {
  auto destination = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(20 * kMiB)}});
  std::vector<StagingSlot> slots;
  for (int i = 0; i < 16; ++i) slots.push_back(stage(*destination, content(kMiB)));
  for (const StagingSlot& slot : slots) destination->discard(slot);
  auto large = destination->stage(4 * kMiB, 0, cancel_);
  ASSERT_TRUE(large.ok());
  EXPECT_GE(large->size, 4 * kMiB);
  destination->discard(*large);
  EXPECT_LE(counts().pinned_peak, 20 * kMiB);
  const auto refused = destination->stage(destination->max_slot_bytes() + 1, 0, cancel_);
  EXPECT_EQ(refused.status().code(), Code::kInternal);
}

TEST_F(DestinationTest, WaitingForASlotEndsWhenTheStreamIsClosed) {
  auto destination = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(128 << 10)}});
  const auto held = destination->stage(64 << 10, 0, cancel_);
  ASSERT_TRUE(held.ok());
  std::thread closer([&] {
    std::this_thread::sleep_for(milliseconds(30));
    cancel_.cancel();
  });
  const auto slot = destination->stage(64 << 10, 0, cancel_);
  closer.join();
  EXPECT_EQ(slot.status().code(), Code::kCancelled);
  destination->discard(*held);
}

TEST_F(DestinationTest, EndWaitsForCopies) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(bytes.size());
  auto destination = make();
  standin_hold(1);
  copy(*destination, stage(*destination, bytes), memory);
  std::thread release([] {
    std::this_thread::sleep_for(milliseconds(50));
    standin_hold(0);
  });
  destination.reset();
  EXPECT_EQ(reports_.count(), 1U);
  EXPECT_EQ(memory.bytes(), bytes);
  release.join();
}

TEST_F(DestinationTest, CopiesStartAfterTheWorkOfTheCallersStream) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(bytes.size());
  void* const own = standin_stream_create();
  auto destination = make();
  std::size_t done = 0;
  for (void* const stream : {own, static_cast<void*>(nullptr)}) {
    standin_fill_later(stream, memory.data, memory.size, 0xEE, 30);
    ASSERT_TRUE(destination->fence(stream).ok());
    copy(*destination, stage(*destination, bytes), memory);
    ++done;
    EXPECT_TRUE(reports_.wait_for(done).back().ok());
    EXPECT_EQ(memory.bytes(), bytes);
  }
  standin_stream_destroy(own);
}

TEST_F(DestinationTest, DisturbsNoCaptureOfAGraph) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  void* const own = standin_stream_create();
  {
    standin_capture(own, 1);
    auto destination = make();
    ASSERT_TRUE(destination->fence(nullptr).ok());
    copy(*destination, stage(*destination, bytes), memory);
    EXPECT_TRUE(reports_.wait_for(1)[0].ok());
    EXPECT_EQ(memory.bytes(), bytes);
    // A load can't be part of a graph.
    const Status status = destination->fence(own);
    EXPECT_EQ(status.code(), Code::kDevice);
    EXPECT_NE(status.to_string().find("is capturing a graph"), std::string::npos);
  }
  standin_capture(own, 0);
  standin_stream_destroy(own);
}

TEST_F(DestinationTest, LeavesTheContextsOfTheCallersThread) {
  const std::size_t before = standin_contexts_of_thread();
  auto destination = make();
  EXPECT_EQ(standin_contexts_of_thread(), before);
  destination->discard(stage(*destination, content(kMiB)));
  EXPECT_TRUE(destination->fence(nullptr).ok());
  destination.reset();
  EXPECT_EQ(standin_contexts_of_thread(), before);
}

TEST_F(DestinationTest, RefusesAStreamThatIsNone) {
  auto destination = make();
  standin_fail("cuEventRecord", 0, 1, 400, 0);
  const Status status = destination->fence(nullptr);
  EXPECT_EQ(status.code(), Code::kDevice);
  EXPECT_TRUE(destination->fence(nullptr).ok());
}

TEST_F(DestinationTest, WritesATrace) {
  const std::string path = (directory_ / "trace.json").string();
  const DeviceMemory memory(kMiB);
  auto destination = make({{"RUNAI_STREAMER_CUDA_TRACE", path}});
  copy(*destination, stage(*destination, content(kMiB)), memory);
  reports_.wait_for(1);
  destination.reset();
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(text.find("{\"traceEvents\":["), std::string::npos);
  EXPECT_NE(text.find("\"name\":\"read\""), std::string::npos);
  EXPECT_NE(text.find("\"name\":\"copy\""), std::string::npos);
  EXPECT_NE(text.find("\"bytes\":1048576"), std::string::npos);
}

TEST_F(DestinationTest, ManyReadersAtOnce) {
  constexpr std::uint32_t kReaders = 8;
  constexpr std::uint32_t kRounds = 40;
  constexpr std::uint64_t kSize = 96 << 10;
  auto destination = make({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", std::to_string(kMiB)}});
  std::vector<std::unique_ptr<DeviceMemory>> memories;
  for (std::uint32_t i = 0; i < kReaders * kRounds; ++i) {
    memories.push_back(std::make_unique<DeviceMemory>(kSize));
  }
  std::vector<std::thread> readers;
  for (std::uint32_t reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      for (std::uint32_t round = 0; round < kRounds; ++round) {
        const std::uint32_t index = reader * kRounds + round;
        copy(*destination, stage(*destination, content(kSize, index), index * 31),
             *memories[index]);
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  for (const Status& status : reports_.wait_for(kReaders * kRounds)) EXPECT_TRUE(status.ok());
  for (std::uint32_t i = 0; i < kReaders * kRounds; ++i) {
    EXPECT_EQ(memories[i]->bytes(), content(kSize, i)) << i;
  }
  EXPECT_LE(counts().pinned_peak, kMiB);
}

}  // namespace
}  // namespace streamer
