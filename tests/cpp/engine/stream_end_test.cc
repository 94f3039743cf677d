// Streams that end early: cancelled, closed over a storage that hangs, or left behind by a fork.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "engine/stream_fixture.h"
#include "source/system_calls.h"
#include "source/temporary.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;
using testing::Gate;
using testing::kMiB;
using testing::matches;
using testing::Piece;
using testing::SystemCalls;

class StreamEnd : public testing::Streaming {};

std::size_t entries_of(const char* path) {
  std::size_t count = 0;
  DIR* directory = opendir(path);
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

TEST_P(StreamEnd, CancellingWakesWhoeverWaits) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  Gate gate;
  const SystemCalls calls(
      [&gate](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
        if (nowait) return -EAGAIN;  // asked under a lock: it never waits
        gate.pass();
        return std::nullopt;
      },
      [&gate](void*, std::size_t) {
        gate.pass();
        return 0;
      });
  ASSERT_TRUE(stream->submit({{0, {{0, 4 * kMiB}}, {}}}).ok());
  std::thread canceller([&stream] {
    std::this_thread::sleep_for(milliseconds(20));
    stream->cancel();
  });
  EXPECT_EQ(stream->next().status().code(), Code::kCancelled);
  canceller.join();
  gate.open();
  stream.reset();
}

TEST_P(StreamEnd, AHangingStorageDoesNotHoldAStreamThatIsClosed) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  Gate gate;
  std::atomic<int> held{0};
  const auto hang = [&] {
    ++held;
    gate.pass();
  };
  const SystemCalls calls(
      [&](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
        if (nowait) return -EAGAIN;  // asked under a lock: it never waits
        hang();
        return std::nullopt;
      },
      [&](void*, std::size_t) {
        hang();
        return 0;
      });
  const std::size_t threads = entries_of("/proc/self/task");
  ASSERT_TRUE(stream->submit({{0, {{0, 4 * kMiB}}, {}}}).ok());
  while (held == 0) std::this_thread::yield();
  stream.reset();  // returns although nothing was read
  gate.open();
  while (entries_of("/proc/self/task") > threads) std::this_thread::yield();  // and all end
}

TEST_P(StreamEnd, MemoryOfTheCallerIsHeldForAHangingStorage) {
  const std::string path = directory_.write("a", 0, kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  Gate gate;
  std::atomic<int> held{0};
  const SystemCalls calls([&](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
    if (nowait) return -EAGAIN;  // asked under a lock: it never waits
    ++held;
    gate.pass();
    return std::nullopt;
  });
  auto memory = std::make_shared<std::vector<std::byte>>(kMiB);
  const std::weak_ptr<void> alive = memory;
  void* data = memory->data();
  ASSERT_TRUE(stream->submit({{0, {{0, kMiB, data}}, std::move(memory)}}).ok());
  while (held == 0) std::this_thread::yield();
  stream.reset();
  EXPECT_FALSE(alive.expired());
  gate.open();
  while (!alive.expired()) std::this_thread::yield();
}

TEST_P(StreamEnd, WaitsForAReadIntoMemoryThatNobodyHolds) {
  const std::string path = directory_.write("a", 0, kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  Gate gate;
  std::atomic<int> held{0};
  std::atomic<bool> opened{false};
  const SystemCalls calls([&](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
    if (nowait) return -EAGAIN;  // asked under a lock: it never waits
    ++held;
    gate.pass();
    return std::nullopt;
  });
  std::vector<std::byte> memory(kMiB);
  ASSERT_TRUE(stream->submit({{0, {{0, kMiB, memory.data()}}, {}}}).ok());
  while (held == 0) std::this_thread::yield();
  std::thread opener([&] {
    std::this_thread::sleep_for(milliseconds(700));
    opened = true;
    gate.open();
  });
  stream.reset();
  EXPECT_TRUE(opened);
  opener.join();
}

TEST_P(StreamEnd, AForkedChildIsTold) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit({{0, {{0, 4 * kMiB}}, {}}}).ok());
  const pid_t child = fork();
  if (child == 0) {
    const bool told = stream->next().status().code() == Code::kInvalid &&
                      stream->open({path}).status().code() == Code::kInvalid &&
                      stream->submit({}).status().code() == Code::kInvalid &&
                      stream->unchanged(0).code() == Code::kInvalid;
    stream->cancel();
    stream.reset();
    _exit(told ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  std::vector<Piece> pieces;
  EXPECT_TRUE(drain(*stream, {{0, {{0, 4 * kMiB}}, {}}}, &pieces).ok());
}

TEST_P(StreamEnd, LeavesNothingBehind) {
  const std::string path = directory_.write("a", 0, 3 * kMiB);
  std::size_t threads = 0;
  std::size_t files = 0;
  for (int round = 0; round < 30; ++round) {
    auto stream = make();
    ASSERT_TRUE(stream->open({path}).ok());
    ASSERT_TRUE(stream->submit({{0, {{0, kMiB}, {kMiB, 2 * kMiB}}, {}}}).ok());
    if (round % 3 != 0) {  // and some are abandoned
      ASSERT_TRUE(stream->next().ok());
    }
    stream.reset();
    if (round == 5) {
      threads = entries_of("/proc/self/task");
      files = entries_of("/proc/self/fd");
    }
  }
  // The kernel lists a thread for a moment after it was joined.
  for (int i = 0; i < 3000 && entries_of("/proc/self/task") > threads; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_LE(entries_of("/proc/self/task"), threads);
  EXPECT_LE(entries_of("/proc/self/fd"), files);
}

INSTANTIATE_TEST_SUITE_P(Strategies, StreamEnd, testing::strategies(), testing::name_of);

}  // namespace
}  // namespace streamer
