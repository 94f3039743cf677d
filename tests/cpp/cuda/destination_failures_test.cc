// The staging path by itself: what fails, and a process that forks.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "cuda/destination_fixture.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

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

TEST_F(DestinationTest, AStickyErrorLeavesOtherDevicesAlone) {
  standin_use(1);
  const auto bytes = content(kMiB);
  auto memory = std::make_unique<DeviceMemory>(kMiB, 0);
  auto other_memory = std::make_unique<DeviceMemory>(kMiB, 1);
  auto destination = make();
  auto other = make({}, 1);
  standin_fail("run copy", 0, 1, 700, 1);
  copy(*destination, stage(*destination, bytes), *memory);
  EXPECT_EQ(reports_.wait_for(1)[0].code(), Code::kDevice);
  copy(*other, stage(*other, bytes), *other_memory);
  EXPECT_TRUE(reports_.wait_for(2)[1].ok());
  EXPECT_EQ(other_memory->bytes(), bytes);
  other.reset();
  destination.reset();
  memory.reset();
  other_memory.reset();
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

TEST_F(DestinationTest, TheWorkOfTheCallersStreamHasNoDeadline) {
  const auto bytes = content(kMiB);
  const DeviceMemory memory(kMiB);
  void* const stream = standin_stream_create();
  {
    auto destination = make({{"RUNAI_STREAMER_CUDA_TIMEOUT", "1"}});
    standin_fill_later(stream, memory.data, memory.size, 0xEE, 1300);
    ASSERT_TRUE(destination->fence(stream).ok());
    copy(*destination, stage(*destination, bytes), memory);
    const Status status = reports_.wait_for(1)[0];
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(memory.bytes(), bytes);
  }
  standin_stream_destroy(stream);
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

}  // namespace
}  // namespace streamer
