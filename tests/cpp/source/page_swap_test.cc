// Memory that takes the place of pages in use.
#include "source/file/page_swap.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/memory_map.h"
#include "source/file/file_view.h"
#include "source/mapped_file.h"

namespace streamer {
namespace {

using testing::matches;

class Detached : public testing::MappedFile {
 protected:
  // Whole pages.
  int detach(std::uint64_t offset, std::uint64_t size) {
    std::byte* const memory = map_memory(size);
    return view_->detach(offset, size, memory);
  }
};

TEST_F(Detached, PagesOutliveATruncation) {
  map(3 * kMiB + 77);
  EXPECT_EQ(detach(0, round_up(3 * kMiB + 77, page_size())), 0);
  cut(0);
  EXPECT_TRUE(matches(view_->data(), kSeed, 0, 3 * kMiB + 77));
}

TEST_F(Detached, PagesKeepWhatWasWritten) {
  map(kMiB);
  view_->data()[5] = view_->data()[kMiB - 1] = std::byte{0xA5};
  EXPECT_EQ(detach(0, kMiB), 0);
  cut(0);
  EXPECT_EQ(view_->data()[5], std::byte{0xA5});
  EXPECT_EQ(view_->data()[kMiB - 1], std::byte{0xA5});
  EXPECT_TRUE(matches(view_->data() + 6, kSeed, 6, kMiB - 7));
}

TEST_F(Detached, OtherPagesStayThoseOfTheFile) {
  map(kMiB);
  EXPECT_EQ(detach(256 * kKiB, 256 * kKiB), 0);
  directory_.write("a", kSeed + 1, kMiB);
  EXPECT_TRUE(matches(view_->data() + 256 * kKiB, kSeed, 256 * kKiB, 256 * kKiB));
  EXPECT_TRUE(matches(view_->data() + 512 * kKiB, kSeed + 1, 512 * kKiB, 512 * kKiB));
}

TEST_F(Detached, PagesThatAreGoneAreAnErrorAndNoSignal) {
  map(kMiB);
  cut(256 * kKiB);
  EXPECT_EQ(detach(0, kMiB), EFAULT);
  EXPECT_TRUE(matches(view_->data(), kSeed, 0, 256 * kKiB));
}

TEST_F(Detached, NoWriteOfAnotherThreadIsLost) {
  constexpr std::uint64_t kSize = 2 * kMiB;
  constexpr std::uint64_t kWords = kSize / sizeof(std::uint32_t);
  constexpr std::uint64_t kStride = 127;  // in no order of memory, and each word once
  map(kSize);
  auto* const words = reinterpret_cast<std::uint32_t*>(view_->data());
  std::memset(words, 0, kSize);
  std::atomic<bool> written{false};
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < kWords; ++i) {
      __atomic_store_n(words + i * kStride % kWords, i + 1, __ATOMIC_RELAXED);
      if (i % 4096 == 0) std::this_thread::yield();
    }
    written = true;
  });
  do {
    EXPECT_EQ(detach(0, kSize), 0);
  } while (!written);
  writer.join();
  for (std::uint64_t i = 0; i < kWords; ++i) ASSERT_EQ(words[i * kStride % kWords], i + 1);
}

}  // namespace
}  // namespace streamer
