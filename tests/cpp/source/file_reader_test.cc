#include "source/file/file_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>

#include "base/memory_map.h"
#include "base/memory_units.h"
#include "source/file/file_object.h"
#include "source/system_calls.h"
#include "source/temporary.h"

namespace streamer {
namespace {

using testing::Directory;
using testing::kKiB;
using testing::kMiB;
using testing::matches;
using testing::SystemCalls;

constexpr std::uint64_t kSeed = 5;
constexpr FsPreference kDirect{FsStrategy::kDirect};

class Reading : public ::testing::TestWithParam<FsStrategy> {
 protected:
  std::shared_ptr<const Object> open(const std::string& path) {
    auto opened = reader_.open(path, {});
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    return opened.ok() ? opened->object : nullptr;
  }
  Status read(const Object& object, std::uint64_t offset, std::vector<std::byte>* bytes) {
    const iovec segment{bytes->data(), bytes->size()};
    return reader_.read(object, offset, {&segment, 1}, &report_);
  }

  Directory directory_;
  FileReader reader_{FsPreference{GetParam()}};
  ReadReport report_;
};

TEST_P(Reading, PassesOverGaps) {
  const std::uint64_t size = 5 * kMiB + 777;
  const auto object = open(directory_.write("a", kSeed, size));
  ASSERT_NE(object, nullptr);
  for (const bool cached : {true, false}) {
    if (!cached) Directory::evict(object->path());
    for (const std::uint64_t gap : {1ull, 4096ull, 4097ull, 131'072ull, 131'073ull, 400'000ull}) {
      for (const std::uint64_t run : {1ull, 700ull, 4096ull, 90'001ull}) {
        const std::uint64_t offset = 123;
        std::vector<std::byte> data(7 * run);
        std::vector<iovec> segments;
        for (std::uint64_t i = 0; i < 7; ++i) {
          if (i > 0) segments.push_back({nullptr, gap});
          segments.push_back({data.data() + i * run, run});
        }
        ReadReport report;
        ASSERT_TRUE(reader_.read(*object, offset, segments, &report).ok());
        EXPECT_LE(report.skipped, 6 * gap);
        if (gap > 131'072) {
          EXPECT_EQ(report.skipped, 6 * gap);
        }
        for (std::uint64_t i = 0; i < 7; ++i) {
          EXPECT_TRUE(matches(data.data() + i * run, kSeed, offset + i * (run + gap), run))
              << gap << " " << run << " " << i;
        }
      }
    }
  }
}

TEST_P(Reading, GivesTheBytesOfAnyRange) {
  const std::uint64_t size = 5 * kMiB + 777;
  const auto object = open(directory_.write("a", kSeed, size));
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(object->size(), size);
  for (const bool cached : {true, false}) {
    if (!cached) Directory::evict(object->path());
    for (const std::uint64_t offset :
         {0ull, 1ull, 511ull, 4095ull, 4096ull, 4097ull, 3'000'001ull}) {
      for (const std::uint64_t bytes :
           {1ull, 10ull, 4096ull, 8191ull, 2'097'152ull, 2'200'000ull}) {
        std::vector<std::byte> data(bytes);
        ASSERT_TRUE(read(*object, offset, &data).ok());
        EXPECT_TRUE(matches(data.data(), kSeed, offset, bytes)) << offset << " " << bytes;
      }
    }
  }
}

TEST_P(Reading, GivesTheVeryLastBytes) {
  for (const std::uint64_t size : {1ull, 100ull, 4096ull, 5000ull, 2'097'153ull}) {
    const auto object = open(directory_.write("a", kSeed, size));
    Directory::evict(object->path());
    std::vector<std::byte> data(size);
    ASSERT_TRUE(read(*object, 0, &data).ok()) << size;
    EXPECT_TRUE(matches(data.data(), kSeed, 0, size));
    std::vector<std::byte> last(1);
    ASSERT_TRUE(read(*object, size - 1, &last).ok());
    EXPECT_TRUE(matches(last.data(), kSeed, size - 1, 1));
  }
}

TEST_P(Reading, FillsMoreSegmentsThanOneCallTakes) {
  constexpr std::size_t kSegments = 3000;
  const auto object = open(directory_.write("a", kSeed, kMiB));
  for (const bool cached : {true, false}) {
    if (!cached) Directory::evict(object->path());
    std::vector<std::byte> data(kSegments * 100);
    std::vector<iovec> segments;
    for (std::size_t i = 0; i < kSegments; ++i) segments.push_back({data.data() + i * 100, 97});
    ASSERT_TRUE(reader_.read(*object, 13, segments, &report_).ok());
    for (std::size_t i = 0; i < kSegments; ++i) {
      ASSERT_TRUE(matches(data.data() + i * 100, kSeed, 13 + i * 97, 97)) << i;
    }
  }
}

TEST_P(Reading, GoesOnAfterShortReadsAndInterruptions) {
  const auto object = open(directory_.write("a", kSeed, kMiB));
  std::atomic<int> calls_made{0};
  const SystemCalls calls(
      [&](int, off_t, std::size_t bytes, bool nowait) -> std::optional<ssize_t> {
        if (nowait) return -EAGAIN;
        if (calls_made++ % 2 == 0) return -EINTR;
        return static_cast<ssize_t>(std::min<std::size_t>(bytes, 4096 * 3));
      });
  std::vector<std::byte> data(kMiB - 10);
  ASSERT_TRUE(read(*object, 7, &data).ok());
  EXPECT_TRUE(matches(data.data(), kSeed, 7, data.size()));
  EXPECT_GT(calls_made, 20);
}

TEST_P(Reading, SaysThatTheFileEndedEarly) {
  const auto object = open(directory_.write("a", kSeed, kMiB));
  ASSERT_EQ(truncate(object->path().c_str(), 5000), 0);
  std::vector<std::byte> data(10'000);
  const Status status = read(*object, 1000, &data);
  EXPECT_EQ(status.code(), Code::kShortRead);
  EXPECT_NE(status.to_string().find("truncated"), std::string::npos);
}

TEST_P(Reading, GivesTheErrorOfTheSystem) {
  const auto object = open(directory_.write("a", kSeed, kMiB));
  const std::map<int, Code> codes = {{EIO, Code::kIo},
                                     {ESTALE, Code::kChanged},
                                     {ENOMEM, Code::kOutOfMemory},
                                     {EACCES, Code::kPermission}};
  for (const auto& [os_error, code] : codes) {
    const SystemCalls calls(
        [os_error = os_error](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
          return nowait ? -EAGAIN : -os_error;
        });
    std::vector<std::byte> data(100);
    const Status status = read(*object, 0, &data);
    EXPECT_EQ(status.code(), code);
    EXPECT_EQ(status.detail().os_error, os_error);
    EXPECT_EQ(status.detail().path, object->path());
  }
}

TEST_P(Reading, ReadsTheStartOfAFileWhenItOpens) {
  const std::string path = directory_.write("a", kSeed, 1000);
  std::vector<std::byte> prefix(600);
  auto opened = reader_.open(path, prefix);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->prefix_size, 600u);
  EXPECT_TRUE(matches(prefix.data(), kSeed, 0, 600));
  prefix.resize(5000);
  opened = reader_.open(path, prefix);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->prefix_size, 1000u);
}

TEST_P(Reading, OpensAnEmptyFile) {
  const auto object = open(directory_.write("a", kSeed, 0));
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(object->size(), 0u);
  EXPECT_EQ(object->view(), nullptr);
}

TEST_P(Reading, RefusesWhatIsNoFile) {
  EXPECT_EQ(reader_.open(directory_.path("nothing"), {}).status().code(), Code::kNotFound);
  EXPECT_EQ(reader_.open(directory_.path(""), {}).status().code(), Code::kInvalid);
  const std::string file = directory_.write("a", kSeed, 1);
  EXPECT_EQ(reader_.open(file + "/below", {}).status().code(), Code::kNotFound);
  EXPECT_EQ(reader_.open("/dev/null", {}).status().code(), Code::kInvalid);
}

TEST_P(Reading, DoesNotWaitForAWriterOfAPipe) {
  const std::string path = directory_.path("pipe");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(reader_.open(path, {}).status().code(), Code::kInvalid);
}

TEST_P(Reading, NoticesThatAFileWasModified) {
  const auto object = open(directory_.write("a", kSeed, 1000));
  EXPECT_TRUE(object->unchanged().ok());
  ASSERT_EQ(truncate(object->path().c_str(), 999), 0);
  EXPECT_EQ(object->unchanged().code(), Code::kChanged);
}

TEST_P(Reading, KeepsTheFileThatItOpenedWhereAnotherTakesItsName) {
  const std::string path = directory_.write("a", kSeed, 10'000);
  const auto object = open(path);
  std::filesystem::rename(directory_.write("b", kSeed + 1, 10'000), path);
  EXPECT_TRUE(object->unchanged().ok());
  std::vector<std::byte> data(10'000);
  ASSERT_TRUE(read(*object, 0, &data).ok());
  EXPECT_TRUE(matches(data.data(), kSeed, 0, 10'000));
}

INSTANTIATE_TEST_SUITE_P(Strategies, Reading,
                         ::testing::Values(FsStrategy::kAuto, FsStrategy::kMapped,
                                           FsStrategy::kBuffered, FsStrategy::kDirect),
                         [](const auto& info) {
                           return std::string(fs_strategy_name(info.param));
                         });

TEST(DirectReading, ReadsWhatIsNotCachedPastThePageCache) {
  const Directory directory;
  FileReader reader(kDirect);
  auto opened = reader.open(directory.write("a", kSeed, 8 * kMiB + 1), {});
  ASSERT_TRUE(opened.ok());
  Directory::evict(opened->object->path());
  std::vector<std::byte> data(5 * kMiB);
  const iovec segment{data.data(), data.size()};
  ReadReport report;
  ASSERT_TRUE(reader.read(*opened->object, 3 * kMiB + 1, {&segment, 1}, &report).ok());
  EXPECT_STREQ(report.strategy, "direct");
  EXPECT_TRUE(matches(data.data(), kSeed, 3 * kMiB + 1, data.size()));
}

TEST(DirectReading, TakesWhatIsCachedFromThePageCache) {
  const Directory directory;
  FileReader reader(kDirect);
  auto opened = reader.open(directory.write("a", kSeed, kMiB), {});
  ASSERT_TRUE(opened.ok());
  std::vector<std::byte> data(kMiB);
  const iovec segment{data.data(), data.size()};
  ReadReport report;
  ASSERT_TRUE(reader.read(*opened->object, 0, {&segment, 1}, &report).ok());
  EXPECT_STREQ(report.strategy, "buffered");
}

TEST(DirectReading, GoesByThePageCacheWhereTheFileSystemRefuses) {
  const Directory directory;
  FileReader reader(kDirect);
  auto opened = reader.open(directory.write("a", kSeed, kMiB), {});
  ASSERT_TRUE(opened.ok());
  Directory::evict(opened->object->path());
  std::atomic<int> refused{0};
  const SystemCalls calls([&](int fd, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
    if (nowait) return -EAGAIN;
    if ((fcntl(fd, F_GETFL) & O_DIRECT) != 0) {
      ++refused;
      return -EINVAL;
    }
    return std::nullopt;
  });
  std::vector<std::byte> data(kMiB);
  const iovec segment{data.data(), data.size()};
  ReadReport report;
  ASSERT_TRUE(reader.read(*opened->object, 0, {&segment, 1}, &report).ok());
  EXPECT_GT(refused, 0);
  EXPECT_TRUE(matches(data.data(), kSeed, 0, kMiB));
}

// Direct reads that the kernel was asked for.
struct DirectRead {
  std::uint64_t offset;
  std::size_t bytes;
  bool operator==(const DirectRead&) const = default;
};

class DirectAlignment : public ::testing::Test {
 protected:
  // The kernel tells that `memory` and `offset` do, and refuses reads that start elsewhere than at
  // multiples of `real`.
  testing::Hooks kernel(std::uint32_t memory, std::uint32_t offset, std::uint64_t real) {
    testing::Hooks hooks;
    hooks.direct_io = [=] { return std::pair(memory, offset); };
    hooks.read = [this, real](int fd, off_t at, std::size_t bytes,
                              bool nowait) -> std::optional<ssize_t> {
      if (nowait) return -EAGAIN;
      if ((fcntl(fd, F_GETFL) & O_DIRECT) == 0) return std::nullopt;
      reads_.push_back({static_cast<std::uint64_t>(at), bytes});
      if (static_cast<std::uint64_t>(at) % real != 0) return -EINVAL;
      return std::nullopt;
    };
    return hooks;
  }
  // Reads [offset, offset + size) into memory that starts `shift` bytes behind a page.
  void read(std::uint64_t offset, std::uint64_t size, std::uint64_t shift) {
    std::byte* const memory = map_memory(round_up(shift + size, page_size()));
    const iovec segment{memory + shift, size};
    ReadReport report;
    Directory::evict(object_->path());
    ASSERT_TRUE(reader_.read(*object_, offset, {&segment, 1}, &report).ok());
    EXPECT_STREQ(report.strategy, "direct");
    EXPECT_TRUE(matches(memory + shift, kSeed, offset, size));
    unmap_memory(memory, round_up(shift + size, page_size()));
  }
  void open() {
    auto opened = reader_.open(directory_.write("a", kSeed, 4 * kMiB), {});
    ASSERT_TRUE(opened.ok());
    object_ = opened->object;
  }

  Directory directory_;
  FileReader reader_{kDirect};
  std::shared_ptr<const Object> object_;
  std::vector<DirectRead> reads_;
};

TEST_F(DirectAlignment, IsTheOneThatTheKernelTells) {
  const SystemCalls calls(kernel(512, 512, 512));
  open();
  read(512, kMiB, 512);
  EXPECT_EQ(reads_.front(), (DirectRead{512, kMiB}));
}

TEST_F(DirectAlignment, OfMemoryCanBeFinerThanOfOffsets) {
  const SystemCalls calls(kernel(4, 4096, 4096));
  open();
  read(8192, kMiB, 4);
  EXPECT_EQ(reads_.front(), (DirectRead{8192, kMiB}));
}

TEST_F(DirectAlignment, IsTheStrictestOnceTheKernelRefuses) {
  const SystemCalls calls(kernel(512, 512, 4096));
  open();
  read(512, kMiB, 512);
  EXPECT_EQ(reads_.front(), (DirectRead{512, kMiB}));
  reads_.clear();
  read(1536, kMiB, 1536);
  for (const DirectRead& read : reads_) EXPECT_EQ(read.offset % 4096, 0U);
}

TEST_F(DirectAlignment, IsTheStrictestIfTheKernelTellsNone) {
  const SystemCalls calls(kernel(0, 0, 4096));
  open();
  read(512, kMiB, 512);
  for (const DirectRead& read : reads_) EXPECT_EQ(read.offset % 4096, 0U);
}

class FaultingIn : public ::testing::Test {
 protected:
  void open(std::uint64_t size) {
    auto opened = reader_.open(directory_.write("a", kSeed, size), {});
    ASSERT_TRUE(opened.ok());
    object_ = opened->object;
    ASSERT_NE(object_->view(), nullptr);
  }
  Directory directory_;
  FileReader reader_{FsPreference{FsStrategy::kMapped}};
  std::shared_ptr<const Object> object_;
  ReadReport report_;
};

TEST_F(FaultingIn, MakesTheBytesPresent) {
  open(3 * kMiB + 5);
  ASSERT_TRUE(reader_.prefault(*object_, 1001, 2 * kMiB, &report_).ok());
  EXPECT_STREQ(report_.strategy, "mapped");
  EXPECT_TRUE(matches(object_->view() + 1001, kSeed, 1001, 2 * kMiB));
  ASSERT_TRUE(reader_.prefault(*object_, 3 * kMiB, 5, &report_).ok());
  EXPECT_TRUE(matches(object_->view() + 3 * kMiB, kSeed, 3 * kMiB, 5));
}

TEST_F(FaultingIn, SaysThatTheFileWasTruncated) {
  open(kMiB);
  ASSERT_EQ(truncate(object_->path().c_str(), 8192), 0);
  EXPECT_EQ(reader_.prefault(*object_, 4096, kMiB - 4096, &report_).code(), Code::kShortRead);
}

TEST_F(FaultingIn, TellsTheErrorBehindAFault) {
  open(kMiB);
  const SystemCalls calls(
      [](int, off_t, std::size_t, bool) -> std::optional<ssize_t> { return -EIO; },
      [](void*, std::size_t) { return EFAULT; });
  const Status status = reader_.prefault(*object_, 0, kMiB, &report_);
  EXPECT_EQ(status.code(), Code::kIo);
  EXPECT_EQ(status.detail().os_error, EIO);
}

TEST_F(FaultingIn, TriesAgainAfterInterruptions) {
  open(kMiB);
  std::atomic<int> calls_made{0};
  const SystemCalls calls({}, [&](void*, std::size_t) { return calls_made++ < 3 ? EINTR : 0; });
  EXPECT_TRUE(reader_.prefault(*object_, 0, kMiB, &report_).ok());
  EXPECT_EQ(calls_made, 4);
}

TEST_F(FaultingIn, TriesOnceMoreWhereTheBytesCanBeRead) {
  open(kMiB);
  std::atomic<int> calls_made{0};
  const SystemCalls calls({}, [&](void*, std::size_t) { return calls_made++ < 1 ? EFAULT : 0; });
  EXPECT_TRUE(reader_.prefault(*object_, 0, kMiB, &report_).ok());
  const SystemCalls again({}, [](void*, std::size_t) { return EFAULT; });
  EXPECT_EQ(reader_.prefault(*object_, 0, kMiB, &report_).code(), Code::kIo);
}

TEST_F(FaultingIn, ViewsArePrivate) {
  open(kMiB);
  ASSERT_TRUE(reader_.prefault(*object_, 0, kMiB, &report_).ok());
  object_->view()[10] = std::byte{0xAA};
  std::ifstream file(object_->path(), std::ios::binary);
  file.seekg(10);
  EXPECT_EQ(static_cast<std::byte>(file.get()), testing::pattern(kSeed, 10));
}

TEST_F(FaultingIn, DroppingARangeLeavesItsNeighbours) {
  open(5 * kMiB);
  ASSERT_TRUE(reader_.prefault(*object_, 0, 5 * kMiB, &report_).ok());
  std::byte* view = object_->view();
  ASSERT_TRUE(object_->acquire_view(0, 101));
  ASSERT_TRUE(object_->acquire_view(101, 4 * kMiB));
  ASSERT_TRUE(object_->acquire_view(4 * kMiB + 101, 7));
  view[100] = std::byte{1};
  view[4 * kMiB + 101] = std::byte{2};
  object_->mapping()->release_view(101, 4 * kMiB);
  EXPECT_EQ(view[100], std::byte{1});
  EXPECT_EQ(view[4 * kMiB + 101], std::byte{2});
}

TEST_F(FaultingIn, WhatWasWrittenGoesWithTheLastHolderOfItsHugePage) {
  open(2 * kMiB + 5);
  ASSERT_TRUE(reader_.prefault(*object_, 0, 2 * kMiB + 5, &report_).ok());
  std::byte* view = object_->view();
  ASSERT_TRUE(object_->acquire_view(0, kMiB));
  ASSERT_TRUE(object_->acquire_view(kMiB, kMiB + 5));
  view[7] = view[2 * kMiB + 1] = ~testing::pattern(kSeed, 7);
  object_->mapping()->release_view(0, kMiB);
  EXPECT_EQ(view[7], ~testing::pattern(kSeed, 7));
  object_->mapping()->release_view(kMiB, kMiB + 5);
  EXPECT_TRUE(matches(view, kSeed, 0, 2 * kMiB + 5));
}

}  // namespace
}  // namespace streamer
