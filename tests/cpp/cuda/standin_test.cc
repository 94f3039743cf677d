// What the stand-in driver calls wrong: its checks are worth no more than what they see.
#include <sys/mman.h>

#include <thread>
#include <utility>

#include "cuda/standin_fixture.h"
#include "destination/cuda/driver.h"

namespace streamer::gpu {
namespace {

constexpr std::uint64_t kBytes = 64 << 10;

class StandinChecks : public ::testing::Test {
 protected:
  void SetUp() override {
    standin_reset(2, kGiB);
    standin_use(0);
    auto loaded = Driver::load(STANDIN_CUDA);
    ASSERT_TRUE(loaded.ok());
    driver_ = *loaded;
    void* const mapped =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    host_ = static_cast<std::byte*>(mapped);
    device_ = static_cast<std::byte*>(standin_alloc(0, kBytes));
    ASSERT_EQ(driver_->stream_create(&stream_, kStreamNonBlocking), kSuccess);
  }
  void TearDown() override {
    standin_hold(0);
    driver_->stream_synchronize(stream_);
    driver_->stream_destroy(stream_);
    if (pinned_) driver_->host_unregister(host_);
    if (device_ != nullptr) standin_free(device_);
    standin_reset(2, kGiB);
    munmap(host_, kBytes);
  }

  void pin() {
    ASSERT_EQ(driver_->host_register(host_, kBytes, kHostRegisterPortable), kSuccess);
    pinned_ = true;
  }
  void unpin() {
    driver_->host_unregister(host_);
    pinned_ = false;
  }
  int copy(const std::byte* to, const std::byte* from, std::uint64_t bytes) {
    return driver_->copy_to_device(reinterpret_cast<DevicePointer>(to), from, bytes, stream_);
  }
  static std::string seen() { return standin_violation(); }

  const Driver* driver_ = nullptr;
  std::byte* host_ = nullptr;
  std::byte* device_ = nullptr;
  CopyStream stream_ = nullptr;
  bool pinned_ = false;
};

TEST_F(StandinChecks, NothingIsWrongWithWhatIsRight) {
  pin();
  EXPECT_EQ(copy(device_, host_, kBytes), kSuccess);
  EXPECT_EQ(driver_->stream_synchronize(stream_), kSuccess);
  unpin();
  EXPECT_EQ(seen(), "");
}

TEST_F(StandinChecks, MemoryThatIsFreedTwice) {
  standin_free(device_);
  standin_free(std::exchange(device_, nullptr));
  EXPECT_EQ(seen(), "memory was freed twice");
}

TEST_F(StandinChecks, MemoryThatIsFreedUnderACopy) {
  pin();
  standin_hold(1);
  ASSERT_EQ(copy(device_, host_, kBytes), kSuccess);
  standin_free(std::exchange(device_, nullptr));
  EXPECT_EQ(seen(), "memory was freed under a copy");
}

TEST_F(StandinChecks, MemoryThatIsUnpinnedUnderACopy) {
  pin();
  standin_hold(1);
  ASSERT_EQ(copy(device_, host_, kBytes), kSuccess);
  unpin();
  EXPECT_EQ(seen(), "memory was unregistered under a copy");
}

TEST_F(StandinChecks, ACopyFromMemoryThatIsNotPinned) {
  EXPECT_NE(copy(device_, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "a copy from memory that is not pinned");
}

TEST_F(StandinChecks, ACopyFromMemoryThatWasUnpinned) {
  pin();
  unpin();
  EXPECT_NE(copy(device_, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "a copy from memory that is not pinned");
}

TEST_F(StandinChecks, ACopyBeyondAnAllocation) {
  pin();
  EXPECT_NE(copy(device_ + 1, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "a copy outside of an allocation");
}

TEST_F(StandinChecks, ACopyToMemoryThatWasFreed) {
  pin();
  const std::byte* const freed = std::exchange(device_, nullptr);
  standin_free(const_cast<std::byte*>(freed));
  EXPECT_NE(copy(freed, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "a copy to memory that was freed");
}

TEST_F(StandinChecks, ACopyToAnotherDevicesMemory) {
  pin();
  standin_use(1);
  auto* const other = static_cast<std::byte*>(standin_alloc(1, kBytes));
  standin_leave(1);
  EXPECT_NE(copy(other, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "a copy outside of an allocation");
  standin_free(other);
}

TEST_F(StandinChecks, AStreamOfAnotherContext) {
  pin();
  standin_use(1);
  EXPECT_NE(copy(device_, host_, kBytes), kSuccess);
  EXPECT_EQ(seen(), "cuMemcpyHtoDAsync_v2: the stream is of another context");
  standin_leave(1);
}

TEST_F(StandinChecks, ACallWithoutAContext) {
  int code = kSuccess;
  std::thread([&] { code = driver_->host_register(host_, kBytes, kHostRegisterPortable); }).join();
  EXPECT_NE(code, kSuccess);
  EXPECT_EQ(seen(), "cuMemHostRegister_v2 without a current context");
}

TEST_F(StandinChecks, AThreadThatLeavesAContextBehind) {
  Context context = nullptr;
  ASSERT_EQ(driver_->context_current(&context), kSuccess);
  std::thread([&] { driver_->context_push(context); }).join();
  EXPECT_EQ(seen(), "a thread ended and left a context or a capture mode behind");
}

TEST_F(StandinChecks, MemoryThatIsPinnedTwiceOrForOneContext) {
  EXPECT_NE(driver_->host_register(host_, kBytes, 0), kSuccess);
  EXPECT_EQ(seen(), "memory was registered for one context only");
  pin();
  EXPECT_NE(driver_->host_register(host_, kBytes, kHostRegisterPortable), kSuccess);
  standin_counts counts{};
  standin_count(&counts);
  EXPECT_EQ(counts.violations, 2U);
}

TEST_F(StandinChecks, AStreamThatWaitsForTheDefaultStream) {
  CopyStream blocking = nullptr;
  EXPECT_NE(driver_->stream_create(&blocking, 0), kSuccess);
  EXPECT_EQ(seen(), "a stream was made that waits for the caller's default stream");
}

}  // namespace
}  // namespace streamer::gpu
