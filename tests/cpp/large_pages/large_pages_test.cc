// Files and devices under a kernel with larger pages: no call is refused, every byte is right.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/memory_map.h"
#include "base/memory_units.h"
#include "cuda/standin_fixture.h"
#include "engine/allocate.h"
#include "engine/stream_fixture.h"

extern "C" unsigned long large_pages_refused();

namespace streamer {
namespace {

using testing::Directory;
using testing::matches;
using testing::Piece;
using testing::Streaming;

TEST(Kernel, RefusesAddressesWithinAPage) {
  const unsigned long before = large_pages_refused();
  const char* const kib = std::getenv("LARGE_PAGES_KIB");
  EXPECT_EQ(page_size(), (kib == nullptr ? 64 : std::strtoull(kib, nullptr, 10)) * kKiB);
  std::byte* const memory = map_memory(page_size());
  EXPECT_TRUE(is_aligned(memory, page_size()));
  EXPECT_EQ(madvise(memory + 4096, 4096, MADV_DONTNEED), -1);
  EXPECT_EQ(munmap(memory + 4096, 4096), -1);
  EXPECT_EQ(large_pages_refused(), before + 2);
  unmap_memory(memory, page_size());
  EXPECT_EQ(large_pages_refused(), before + 2);
}

// Fails the test in which the kernel refuses a call.
class NothingRefused {
 public:
  ~NothingRefused() { EXPECT_EQ(large_pages_refused(), before_); }

 private:
  const unsigned long before_ = large_pages_refused();
};

class LargePages : public Streaming {
  NothingRefused check_;
};

// Ranges that start and end anywhere: in a page, in the last page, over huge pages.
std::vector<Range> odd_ranges(std::uint64_t size) {
  std::vector<Range> ranges;
  std::uint64_t offset = 8 + 5000;
  for (const std::uint64_t bytes :
       {kMiB, std::uint64_t{1}, std::uint64_t{4097}, 65 * kKiB, 3 * kMiB + 7, 300 * kKiB}) {
    ranges.push_back({offset, bytes});
    offset += bytes;
  }
  ranges.push_back({offset, size - offset});
  return ranges;
}

TEST_P(LargePages, FilesAreReadFromThePageCacheAndFromTheDisk) {
  const std::uint64_t size = 7 * kMiB + 12345;
  const std::string path = directory_.write("a", 0, size);
  for (const bool cached : {true, false}) {
    if (!cached) Directory::evict(path);
    auto stream = make();
    ASSERT_TRUE(stream->open({path}, 100'000)->front().status.ok());
    const std::vector<FileRanges> wanted = {{.file = 0, .ranges = odd_ranges(size)}};
    ASSERT_TRUE(stream->submit(wanted).ok());
    std::vector<Piece> pieces;
    ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
    ASSERT_EQ(pieces.size(), wanted[0].ranges.size());
    for (const Piece& piece : pieces) {
      EXPECT_TRUE(matches(piece.data, 0, piece.offset, piece.size)) << piece.offset;
    }
  }
}

TEST_P(LargePages, MemoryOfTheCallerIsFilled) {
  const std::uint64_t size = 3 * kMiB + 77;
  const std::string path = directory_.write("a", 0, size);
  std::vector<std::byte> memory(size);
  for (const bool cached : {true, false}) {
    if (!cached) Directory::evict(path);
    std::fill(memory.begin(), memory.end(), std::byte{});
    auto stream = make();
    ASSERT_TRUE(stream->open({path})->front().status.ok());
    const std::vector<FileRanges> wanted = {
        {.file = 0, .ranges = {{9, size - 9, memory.data() + 9}}}};
    ASSERT_TRUE(stream->submit(wanted).ok());
    std::vector<Piece> pieces;
    ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
    EXPECT_TRUE(matches(memory.data() + 9, 0, 9, size - 9));
  }
}

INSTANTIATE_TEST_SUITE_P(Strategies, LargePages, testing::strategies(), testing::name_of);

TEST(LargePagePool, SplitsAndJoinsMemory) {
  const NothingRefused check;
  const auto budget = std::make_shared<MemoryBudget>(64 * kMiB);
  const auto pool = MemoryPool::create(budget);
  const auto allocate = [&](std::uint64_t bytes) {
    bool refused = false;
    auto memory = testing::allocate_from(*pool, bytes, Pages::kHuge, false, &refused);
    EXPECT_NE(memory, nullptr) << bytes;
    EXPECT_TRUE(is_aligned(memory->data, 64));
    std::memset(memory->data, 1, memory->capacity);
    return memory;
  };
  for (int round = 0; round < 3; ++round) {
    auto large = allocate(20 * kMiB + 1);
    large.reset();
    auto one = allocate(6 * kMiB);
    auto other = allocate(300 * kKiB + 1);
    auto small = allocate(200 * kKiB);
    one.reset();
    other.reset();
    small.reset();
  }
  pool->close();
  EXPECT_EQ(budget->used(), 0U);
}

class LargePageDevice : public StandinTest {
  NothingRefused check_;
};

TEST_F(LargePageDevice, PinnedMemoryIsMappedAndUnmapped) {
  const std::uint64_t size = 9 * kMiB + 321;
  const std::string path = make_file("a", size);
  for (const FsStrategy strategy : {FsStrategy::kBuffered, FsStrategy::kDirect}) {
    Directory::evict(path);
    Options chosen = options();
    chosen.fs_strategy.strategy = strategy;
    auto stream = Stream::create(chosen).value();
    ASSERT_TRUE(stream->open({path})->front().status.ok());
    const DeviceMemory memory(size);
    const Device device{DeviceType::kCuda, 0};
    ASSERT_TRUE(stream->submit({{.file = 0, .ranges = {{1, size - 1, memory.data}}}}, device).ok());
    for (const Status& status : drain(*stream, 1)) EXPECT_TRUE(status.ok()) << status.to_string();
    const auto expected = content(size);
    EXPECT_EQ(std::memcmp(memory.data, expected.data() + 1, size - 1), 0);
  }
}

}  // namespace
}  // namespace streamer
