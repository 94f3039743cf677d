// Forks while threads of the parent are in the engine: whatever was given out before can be dropped
// in the child, in which no other thread will ever release a lock.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "engine/stream_fixture.h"
#include "source/file/file_view.h"

namespace streamer {
namespace {

using testing::kKiB;
using testing::kMiB;
using testing::Piece;

constexpr int kForks = 40;

// Runs `drop` in forked children, one after the other, while `work` runs again and again in a
// thread of the parent. Whether all of them ended.
bool children_end(const std::function<void()>& drop, const std::function<void()>& work) {
  std::atomic<bool> over{false};
  std::atomic<int> rounds{0};
  std::thread parent([&] {
    while (!over) {
      work();
      ++rounds;
    }
  });
  while (rounds == 0) std::this_thread::yield();
  bool all = true;
  for (int i = 0; i < kForks && all; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      drop();
      _exit(0);
    }
    int status = -1;
    all = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  over = true;
  parent.join();
  return all;
}

class Fork : public testing::Streaming {
 protected:
  // One submission of the file's blocks, of all sizes.
  static std::vector<FileRanges> wanted() {
    FileRanges ranges;
    std::uint64_t offset = 0;
    for (const std::uint64_t size : {kMiB, 8 * kMiB, 3 * kKiB, 300 * kKiB, 5 * kMiB}) {
      ranges.ranges.push_back({offset, size, nullptr, 1});
      offset += size;
    }
    return {ranges};
  }
};

TEST_P(Fork, AChildMayDropTensorsAndTheStream) {
  const std::string path = directory_.write("a", 0, 16 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  std::vector<Piece> held;
  ASSERT_TRUE(stream->submit(wanted()).ok());
  ASSERT_TRUE(drain(*stream, wanted(), &held).ok());
  EXPECT_TRUE(children_end(
      [&] {
        held.clear();
        stream.reset();
      },
      [&] {
        std::vector<Piece> pieces;
        EXPECT_TRUE(stream->submit(wanted()).ok());
        EXPECT_TRUE(drain(*stream, wanted(), &pieces).ok());
      }));
}

TEST_P(Fork, AChildMayDropTensorsOfAStreamThatIsClosed) {
  const std::string path = directory_.write("a", 0, 16 * kMiB);
  const auto load = [&](std::vector<Piece>* pieces) {
    auto stream = make();
    EXPECT_TRUE(stream->open({path}).ok());
    EXPECT_TRUE(stream->submit(wanted()).ok());
    EXPECT_TRUE(drain(*stream, wanted(), pieces).ok());
  };
  std::vector<Piece> held;
  load(&held);
  EXPECT_TRUE(children_end([&] { held.clear(); },
                           [&] {
                             std::vector<Piece> pieces;
                             load(&pieces);
                           }));
}

TEST_P(Fork, AChildMayDropABatchAndWhatKeepsItsDestinations) {
  const std::string path = directory_.write("a", 0, 16 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  auto memory = std::make_shared<std::vector<std::byte>>(16 * kMiB);
  void* const data = memory->data();
  ASSERT_TRUE(stream->submit({{0, {{0, 16 * kMiB, data}}, memory}}).ok());
  auto batch = stream->next();
  ASSERT_TRUE(batch.ok());
  EXPECT_TRUE(children_end(
      [&] {
        batch->ready.clear();
        memory.reset();
        stream.reset();
      },
      [&] {
        std::vector<Piece> pieces;
        EXPECT_TRUE(stream->submit(wanted()).ok());
        EXPECT_TRUE(drain(*stream, wanted(), &pieces).ok());
      }));
}

INSTANTIATE_TEST_SUITE_P(Strategies, Fork, testing::strategies(), testing::name_of);

TEST(ForkedView, AChildMayDropWhileAnotherThreadTakesAndDrops) {
  const testing::Directory directory;
  const std::string path = directory.write("a", 0, 12 * kMiB);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  int os_error = 0;
  auto view = FileView::map(fd, 12 * kMiB, /*guarded=*/true, &os_error);
  ASSERT_NE(view, nullptr) << os_error;
  view->take(0, 3 * kMiB + 1000);
  EXPECT_TRUE(children_end([&] { view->release_view(0, 3 * kMiB + 1000); },
                           [&] {
                             view->take(4 * kMiB, 8 * kMiB);
                             view->release_view(4 * kMiB, 8 * kMiB);
                           }));
  view.reset();
  ::close(fd);
}

// What the child's other tensors hold of the pages at both ends is left alone.
TEST(ForkedView, AChildDropsItsOwnPagesOnly) {
  const testing::Directory directory;
  const std::string path = directory.write("a", 0, 4 * kMiB);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  int os_error = 0;
  auto view = FileView::map(fd, 4 * kMiB, /*guarded=*/true, &os_error);
  ASSERT_NE(view, nullptr) << os_error;
  view->take(0, 5000);
  view->take(5000, kMiB);
  view->take(kMiB + 5000, 1000);
  const pid_t child = fork();
  if (child == 0) {
    view->data()[4999] = std::byte{77};
    view->data()[kMiB + 5000] = std::byte{78};
    view->release_view(5000, kMiB);
    const bool kept =
        view->data()[4999] == std::byte{77} && view->data()[kMiB + 5000] == std::byte{78};
    _exit(kept ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  view.reset();
  ::close(fd);
}

}  // namespace
}  // namespace streamer
