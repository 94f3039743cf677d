// The staging path by itself: slots, copies, their ends, and failures of each.
#include "destination/destination.h"

#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>

#include "cuda/standin_fixture.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

// Collects the statuses that copies report.
class Reports {
 public:
  std::function<void(Status)> sink() {
    return [this](Status status) {
      const std::lock_guard lock(mutex_);
      statuses_.push_back(std::move(status));
      arrived_.notify_all();
    };
  }
  std::vector<Status> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return statuses_.size() >= count; });
    return statuses_;
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return statuses_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Status> statuses_;
};

class DestinationTest : public StandinTest {
 protected:
  std::unique_ptr<Destination> make(std::map<std::string, std::string> settings = {},
                                    int ordinal = 0) {
    auto made =
        make_destination({DeviceType::kCuda, ordinal}, options(std::move(settings)), budget_);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return made.ok() ? std::move(*made) : nullptr;
  }
  // A slot that holds `bytes`.
  StagingSlot stage(Destination& destination, const std::vector<std::byte>& bytes,
                    std::uint64_t offset = 0) {
    auto slot = destination.stage(bytes.size(), offset, cancel_);
    EXPECT_TRUE(slot.ok()) << slot.status().to_string();
    std::memcpy(slot->data, bytes.data(), bytes.size());
    return *slot;
  }
  void copy(Destination& destination, StagingSlot slot, const DeviceMemory& to) {
    const iovec segment{to.data, to.size};
    destination.copy(slot, {&segment, 1}, reports_.sink());
  }

  MemoryBudget budget_{64 * kMiB};
  CancelToken cancel_;
  Reports reports_;
};

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
  // 16 slots of 2 MiB under way are enough for any link.
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

TEST_F(DestinationTest, RefusesAStreamThatIsNone) {
  auto destination = make();
  standin_fail("cuEventRecord", 0, 1, 400, 0);
  const Status status = destination->fence(nullptr);
  EXPECT_EQ(status.code(), Code::kDevice);
  EXPECT_TRUE(destination->fence(nullptr).ok());
}

// Failures.

TEST_F(DestinationTest, ReportsWhatIsMissing) {
  standin_fail("cuInit", 0, 1, 100, 0);  // has no effect: the driver is initialised already
  const auto none = make_destination({DeviceType::kCuda, 5}, options(), budget_);
  EXPECT_EQ(none.status().code(), Code::kDevice);
  const auto unused = make_destination({DeviceType::kCuda, 1}, options(), budget_);
  EXPECT_EQ(unused.status().code(), Code::kDevice);
  const auto no_driver =
      make_destination({DeviceType::kCuda, 0},
                       options({{"RUNAI_STREAMER_CUDA_LIBRARY", "/nonexistent.so"}}), budget_);
  EXPECT_EQ(no_driver.status().code(), Code::kDevice);
  const auto host = make_destination({DeviceType::kHost, 0}, options(), budget_);
  EXPECT_EQ(host.status().code(), Code::kUnsupported);
  const auto wrong = make_destination(
      {DeviceType::kCuda, 0}, options({{"RUNAI_STREAMER_CUDA_PINNED_LIMIT", "much"}}), budget_);
  EXPECT_EQ(wrong.status().code(), Code::kInvalid);
  EXPECT_NE(wrong.status().to_string().find("RUNAI_STREAMER_CUDA_PINNED_LIMIT"), std::string::npos);
}

TEST_F(DestinationTest, FailsWhereStreamsOrEventsCannotBeMade) {
  for (const char* function :
       {"cuStreamCreate", "cuEventCreate", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxGetState",
        "cuCtxPushCurrent_v2", "cuDeviceGetCount", "cuDeviceGet"}) {
    standin_fail(function, 0, 1, 2, 0);
    const auto made = make_destination({DeviceType::kCuda, 0}, options(), budget_);
    EXPECT_EQ(made.status().code(), Code::kDevice) << function;
    EXPECT_EQ(counts().streams, 0U) << function;
  }
  standin_fail("cuStreamCreate", 2, 1, 2, 0);
  const auto made = make_destination({DeviceType::kCuda, 0}, options(), budget_);
  EXPECT_EQ(made.status().code(), Code::kDevice);
  EXPECT_EQ(counts().streams, 0U);
}

TEST_F(DestinationTest, SaysHowMuchHostMemoryCouldNotBePinned) {
  auto destination = make();
  standin_fail("cuMemHostRegister_v2", 0, 1, 2, 0);
  const auto slot = destination->stage(kMiB, 0, cancel_);
  EXPECT_EQ(slot.status().code(), Code::kOutOfMemory);
  EXPECT_NE(slot.status().to_string().find("1052672 bytes"), std::string::npos)
      << slot.status().to_string();
  EXPECT_EQ(budget_.used(), 0U);
  // That was all: the next try works.
  const auto again = destination->stage(kMiB, 0, cancel_);
  ASSERT_TRUE(again.ok()) << again.status().to_string();
  destination->discard(*again);
}

TEST_F(DestinationTest, MakesDoWithTheMemoryThatCouldBePinned) {
  auto destination = make();
  standin_fail("cuMemHostRegister_v2", 2, 1000, 2, 0);
  const DeviceMemory memory(kMiB);
  const auto bytes = content(kMiB);
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 4; ++reader) {
    readers.emplace_back([&] {
      for (int i = 0; i < 10; ++i) copy(*destination, stage(*destination, bytes), memory);
    });
  }
  for (std::thread& reader : readers) reader.join();
  for (const Status& status : reports_.wait_for(40)) EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(counts().registrations, 2U);
  std::map<std::string, std::string> notes;
  destination->describe(&notes);
  EXPECT_EQ(notes["cuda:0 pinned bytes"], std::to_string(2 * (kMiB + 4096)));
  EXPECT_NE(notes["cuda:0 pinned memory stopped growing"].find("can't be pinned"),
            std::string::npos);
}

TEST_F(DestinationTest, EventOfASlotCannotBeMade) {
  auto destination = make();
  standin_fail("cuEventCreate", 0, 1, 999, 0);
  const auto slot = destination->stage(kMiB, 0, cancel_);
  EXPECT_EQ(slot.status().code(), Code::kDevice);
  EXPECT_EQ(counts().pinned_bytes, 0U);
}

TEST_F(DestinationTest, ABadAddressFailsOneCopyOnly) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  auto destination = make();
  standin_fail("cuMemcpyHtoDAsync_v2", 0, 1, 1, 0);
  copy(*destination, stage(*destination, bytes), memory);
  const Status status = reports_.wait_for(1)[0];
  EXPECT_EQ(status.code(), Code::kDevice);
  EXPECT_NE(status.to_string().find("1048576 bytes to cuda:0"), std::string::npos);
  copy(*destination, stage(*destination, bytes), memory);
  EXPECT_TRUE(reports_.wait_for(2)[1].ok());
  EXPECT_EQ(memory.bytes(), bytes);
}

TEST_F(DestinationTest, ACopyThatFailsHalfwayKeepsItsSlotUntilTheRestHasEnded) {
  const auto bytes = content(kMiB);
  const DeviceMemory one(kMiB / 2);
  const DeviceMemory two(kMiB / 2);
  auto destination = make();
  standin_hold(1);
  standin_fail("cuMemcpyHtoDAsync_v2", 1, 1, 1, 0);
  const std::vector<iovec> segments{{one.data, one.size}, {two.data, two.size}};
  destination->copy(stage(*destination, bytes), segments, reports_.sink());
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(reports_.count(), 0U);
  standin_hold(0);
  EXPECT_EQ(reports_.wait_for(1)[0].code(), Code::kDevice);
  EXPECT_EQ(std::memcmp(one.data, bytes.data(), one.size), 0);
}

TEST_F(DestinationTest, AStickyErrorEndsEverything) {
  const auto bytes = content(kMiB);
  auto memory = std::make_unique<DeviceMemory>(kMiB);
  auto destination = make();
  standin_fail("run copy", 1, 1, 700, 1);
  std::vector<StagingSlot> slots;
  for (int i = 0; i < 4; ++i) slots.push_back(stage(*destination, bytes));
  for (const StagingSlot& slot : slots) copy(*destination, slot, *memory);
  int failed = 0;
  for (const Status& status : reports_.wait_for(4)) {
    if (status.ok()) continue;
    ++failed;
    EXPECT_EQ(status.code(), Code::kDevice);
    EXPECT_NE(status.to_string().find("CUDA_ERROR_ILLEGAL_ADDRESS"), std::string::npos);
    EXPECT_NE(status.to_string().find("CUDA_LAUNCH_BLOCKING"), std::string::npos);
  }
  EXPECT_GE(failed, 1);
  const auto slot = destination->stage(kMiB, 0, cancel_);
  EXPECT_EQ(slot.status().code(), Code::kDevice);
  EXPECT_EQ(destination->fence(nullptr).code(), Code::kDevice);
  destination.reset();
  EXPECT_EQ(budget_.used(), 0U);
  memory.reset();
  // The device is gone, and with it what could have been taken back.
  standin_reset(2, kGiB);
  standin_use(0);
}

TEST_F(DestinationTest, AReaderThatHoldsASlotWhenTheDeviceFailsIsToldSo) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  auto destination = make();
  const StagingSlot held = stage(*destination, bytes);
  standin_fail("cuEventRecord", 0, 1, 719, 0);
  copy(*destination, stage(*destination, bytes), memory);
  EXPECT_EQ(reports_.wait_for(1)[0].code(), Code::kDevice);
  copy(*destination, held, memory);
  EXPECT_EQ(reports_.wait_for(2)[1].code(), Code::kDevice);
}

TEST_F(DestinationTest, AFailedQueryReportsEveryCopy) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  auto destination = make();
  standin_link(100 * kMiB);
  standin_fail("cuEventQuery", 2, 1, 999, 0);
  std::vector<StagingSlot> slots;
  for (int i = 0; i < 3; ++i) slots.push_back(stage(*destination, bytes));
  for (const StagingSlot& slot : slots) copy(*destination, slot, memory);
  int failed = 0;
  for (const Status& status : reports_.wait_for(3)) failed += status.ok() ? 0 : 1;
  EXPECT_GE(failed, 1);
  EXPECT_EQ(destination->stage(kMiB, 0, cancel_).status().code(), Code::kDevice);
}

TEST_F(DestinationTest, ACopyThatNeverEndsIsAnErrorAndItsMemoryIsLeft) {
  const auto bytes = content(kMiB);
  auto memory = std::make_unique<DeviceMemory>(kMiB);
  auto destination = make({{"RUNAI_STREAMER_CUDA_TIMEOUT", "1"}});
  standin_hold(1);
  copy(*destination, stage(*destination, bytes), *memory);
  const Status status = reports_.wait_for(1)[0];
  EXPECT_EQ(status.code(), Code::kTimeout);
  EXPECT_NE(status.to_string().find("1 seconds"), std::string::npos);
  destination.reset();  // returns
  EXPECT_EQ(budget_.used(), 0U);
  // The device may still read the slot: nothing under it was taken away.
  EXPECT_EQ(counts().violations, 0U);
  EXPECT_EQ(counts().pinned_bytes, kMiB + 4096);
  standin_hold(0);
  while (counts().copies == 0) std::this_thread::yield();
  memory.reset();
  standin_reset(2, kGiB);
  standin_use(0);
}

TEST_F(DestinationTest, AForkedChildIsRefusedAndHarmsNothing) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  auto destination = make();
  const StagingSlot held = stage(*destination, bytes);
  const pid_t child = fork();
  if (child == 0) {
    const auto slot = destination->stage(kMiB, 0, cancel_);
    Status copied;
    const iovec segment{memory.data, memory.size};
    destination->copy(held, {&segment, 1}, [&](Status status) { copied = std::move(status); });
    const bool told = slot.status().code() == Code::kDevice && copied.code() == Code::kDevice &&
                      destination->fence(nullptr).code() == Code::kDevice;
    destination.reset();
    _exit(told ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  copy(*destination, held, memory);
  EXPECT_TRUE(reports_.wait_for(1)[0].ok());
  EXPECT_EQ(memory.bytes(), bytes);
}

TEST_F(DestinationTest, WritesATrace) {
  const std::string path = (folder_ / "trace.json").string();
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
