// Streams whose destination is a device: the engine and the staging path together.
#include "streamer/stream.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "cuda/standin_fixture.h"

namespace streamer {
namespace {

const Device kCuda0{DeviceType::kCuda, 0, nullptr};

class CudaStreamTest : public StandinTest {
 protected:
  std::unique_ptr<Stream> stream(Options options) {
    auto made = Stream::create(std::move(options));
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return std::move(*made);
  }
  static void open(Stream& stream, const std::vector<std::string>& paths) {
    auto opened = stream.open(paths);
    ASSERT_TRUE(opened.ok()) << opened.status().to_string();
    for (const OpenedFile& file : *opened) ASSERT_TRUE(file.status.ok()) << file.status.to_string();
  }
  // Cuts [0, total) into ranges of the given sizes, over and over, and gives each its place in
  // `memory`, at multiples of `alignment`.
  static std::vector<Range> cut(std::uint64_t total, const std::vector<std::uint64_t>& sizes,
                                std::byte* memory, std::uint64_t alignment) {
    std::vector<Range> ranges;
    std::uint64_t place = 0;
    for (std::uint64_t offset = 0, i = 0; offset < total; ++i) {
      Range range;
      range.offset = offset;
      range.size = std::min(sizes[i % sizes.size()], total - offset);
      range.destination = memory + place;
      ranges.push_back(range);
      offset += range.size;
      place += (range.size + alignment - 1) / alignment * alignment;
    }
    return ranges;
  }
  static void expect_ok(const std::vector<Status>& statuses) {
    for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.to_string();
  }
  // Whether every range arrived.
  static void expect_bytes(const std::vector<Range>& ranges, const std::vector<std::byte>& wanted) {
    for (const Range& range : ranges) {
      ASSERT_EQ(std::memcmp(range.destination, wanted.data() + range.offset, range.size), 0)
          << "at " << range.offset;
    }
  }
};

struct Way {
  const char* name;
  FsStrategy strategy;
  int concurrency;
  std::uint64_t chunk_bytes;
  MemoryLimit memory_limit = {};
};

class CudaWays : public CudaStreamTest, public ::testing::WithParamInterface<Way> {};

TEST_P(CudaWays, BytesAreWhereTheyBelong) {
  const Way& way = GetParam();
  Options settings = options();
  settings.fs_strategy.strategy = way.strategy;
  settings.concurrency = way.concurrency;
  settings.chunk_bytes = way.chunk_bytes;
  settings.memory_limit = way.memory_limit;
  constexpr std::uint64_t kSize = 24 * kMiB + 1234;
  const std::string path = make_file("model", kSize);
  const auto wanted = content(kSize);
  // Cold, if the file system drops its pages.
  const int fd = ::open(path.c_str(), O_RDONLY);
  fsync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
  const DeviceMemory memory(2 * kSize);
  auto load = stream(std::move(settings));
  open(*load, {path});
  // Empty, tiny, odd, large, and one that is larger than the memory limit of a way.
  const auto ranges =
      cut(kSize, {0, 1, 7, 4096, 100'000, 3 * kMiB + 5, 9 * kMiB, 513}, memory.data, 512);
  auto submitted = load->submit({{0, ranges}}, kCuda0);
  ASSERT_TRUE(submitted.ok()) << submitted.status().to_string();
  expect_ok(drain(*load, ranges.size()));
  expect_bytes(ranges, wanted);
  const Stats stats = load->stats();
  EXPECT_EQ(stats.bytes, kSize);
  EXPECT_GT(std::stoull(stats.notes.at("cuda:0 pinned bytes")), 0U);
  if (way.memory_limit.kind() == MemoryLimit::Kind::kBytes) {
    EXPECT_LE(stats.peak_memory, way.memory_limit.largest_block());
  }
  if (way.strategy == FsStrategy::kDirect && stats.bytes_by_strategy.count("direct") > 0) {
    EXPECT_GT(stats.bytes_by_strategy.at("direct"), kSize / 10 * 9);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Strategies, CudaWays,
    ::testing::Values(
        Way{"auto_many", FsStrategy::kAuto, 0, 0}, Way{"one_thread", FsStrategy::kBuffered, 1, 0},
        Way{"direct", FsStrategy::kDirect, 4, 0}, Way{"mapped", FsStrategy::kMapped, 2, 0},
        Way{"small_chunks", FsStrategy::kBuffered, 8, 4096},
        Way{"large_chunks", FsStrategy::kDirect, 3, 32 * kMiB, MemoryLimit::unlimited()},
        Way{"little_memory", FsStrategy::kAuto, 4, 0, MemoryLimit::bytes(2 * kMiB)},
        Way{"least_memory", FsStrategy::kBuffered, 4, 0, MemoryLimit::least()}),
    [](const auto& info) { return std::string(info.param.name); });

// An automatic memory limit is chosen with the first file.
TEST_F(CudaStreamTest, ADeviceThatIsKnownBeforeAnyFileHasStagingMemoryToo) {
  constexpr std::uint64_t kSize = 48 * kMiB;
  const std::string path = make_file("model", kSize);
  const DeviceMemory memory(kSize);
  const auto requests = [&](bool first_the_device) {
    auto load = stream(options());
    if (first_the_device) {
      EXPECT_TRUE(load->submit({}, kCuda0).ok());
    }
    open(*load, {path});
    const auto ranges = cut(kSize, {kSize}, memory.data, 512);
    EXPECT_TRUE(load->submit({{0, ranges}}, kCuda0).ok());
    expect_ok(drain(*load, ranges.size()));
    return load->stats().requests;
  };
  EXPECT_LE(requests(/*first_the_device=*/true), 2 * requests(false));
  EXPECT_EQ(memory.bytes(), content(kSize));
}

TEST_F(CudaStreamTest, ManyFilesAndSubmissions) {
  std::vector<std::string> paths;
  for (std::uint32_t i = 0; i < 5; ++i)
    paths.push_back(make_file("part" + std::to_string(i), 3 * kMiB, i + 1));
  auto load = stream(options());
  open(*load, paths);
  std::vector<std::unique_ptr<DeviceMemory>> memories;
  std::vector<std::vector<Range>> all;
  for (std::uint32_t i = 0; i < 5; ++i) {
    memories.push_back(std::make_unique<DeviceMemory>(4 * kMiB));
    all.push_back(cut(3 * kMiB, {700'000, 12}, memories.back()->data, 16));
    const auto submitted = load->submit({{i, all.back()}}, kCuda0);
    ASSERT_TRUE(submitted.ok());
    EXPECT_EQ(*submitted, i);
  }
  std::uint64_t before = 0;
  for (bool finished = false; !finished;) {
    auto batch = load->next();
    ASSERT_TRUE(batch.ok());
    for (const Ready& ready : batch->ready) {
      ASSERT_TRUE(ready.status.ok()) << ready.status.to_string();
      EXPECT_GE(ready.submission, before);
      EXPECT_EQ(ready.data, nullptr);
      before = ready.submission;
    }
    finished = batch->finished;
  }
  for (std::uint32_t i = 0; i < 5; ++i) expect_bytes(all[i], content(3 * kMiB, i + 1));
}

TEST_F(CudaStreamTest, TwoDevicesAndTheHostAtOnce) {
  standin_use(1);
  const std::string path = make_file("model", 4 * kMiB);
  const DeviceMemory first(2 * kMiB, 0);
  const DeviceMemory second(kMiB, 1);
  auto load = stream(options());
  open(*load, {path});
  ASSERT_TRUE(load->submit({{0, {{0, 2 * kMiB, first.data}}}}, kCuda0).ok());
  ASSERT_TRUE(load->submit({{0, {{2 * kMiB, kMiB, second.data}}}}, {DeviceType::kCuda, 1}).ok());
  ASSERT_TRUE(load->submit({{0, {{3 * kMiB, kMiB}}}}).ok());
  const auto wanted = content(4 * kMiB);
  for (bool finished = false; !finished;) {
    auto batch = load->next();
    ASSERT_TRUE(batch.ok());
    for (const Ready& ready : batch->ready) {
      ASSERT_TRUE(ready.status.ok()) << ready.status.to_string();
      if (ready.submission == 2) {
        EXPECT_EQ(std::memcmp(ready.data, wanted.data() + 3 * kMiB, kMiB), 0);
      }
    }
    finished = batch->finished;
  }
  EXPECT_EQ(std::memcmp(first.data, wanted.data(), first.size), 0);
  EXPECT_EQ(std::memcmp(second.data, wanted.data() + 2 * kMiB, second.size), 0);
  EXPECT_EQ(counts().contexts_made, 2U);
  load.reset();
  standin_leave(1);
}

TEST_F(CudaStreamTest, ReadingGoesOnWhileCopiesAreInFlight) {
  // One reader, and a device that takes its time: slots fill although no copy has ended.
  Options settings = options();
  settings.concurrency = 1;
  const std::string path = make_file("model", 8 * kMiB);
  const DeviceMemory memory(8 * kMiB);
  auto load = stream(std::move(settings));
  open(*load, {path});
  standin_hold(1);
  ASSERT_TRUE(load->submit({{0, {{0, 8 * kMiB, memory.data}}}}, kCuda0).ok());
  while (counts().registrations < 4) std::this_thread::yield();  // 2 MiB each
  standin_hold(0);
  expect_ok(drain(*load, 1));
  EXPECT_EQ(memory.bytes(), content(8 * kMiB));
}

TEST_F(CudaStreamTest, CopiesWaitForTheCallersStream) {
  const std::string path = make_file("model", kMiB);
  const DeviceMemory memory(kMiB);
  void* const own = standin_stream_create();
  auto load = stream(options());
  open(*load, {path});
  standin_fill_later(own, memory.data, memory.size, 0xEE, 50);
  ASSERT_TRUE(load->submit({{0, {{0, kMiB, memory.data}}}}, {DeviceType::kCuda, 0, own}).ok());
  expect_ok(drain(*load, 1));
  EXPECT_EQ(memory.bytes(), content(kMiB));
  load.reset();
  standin_stream_destroy(own);
}

TEST_F(CudaStreamTest, ABadRangeIsReportedAndTheOthersArrive) {
  const std::string path = make_file("model", 4 * kMiB);
  const DeviceMemory memory(4 * kMiB);
  Options settings = options();
  settings.chunk_bytes = kMiB;
  settings.concurrency = 1;
  auto load = stream(std::move(settings));
  open(*load, {path});
  standin_fail("cuMemcpyHtoDAsync_v2", 1, 1, 1, 0);
  const auto ranges = cut(4 * kMiB, {kMiB}, memory.data, 1);
  ASSERT_TRUE(load->submit({{0, ranges}}, kCuda0).ok());
  const auto statuses = drain(*load, 4);
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_EQ(statuses[1].code(), Code::kDevice);
  EXPECT_EQ(statuses[1].detail().path, path);
  EXPECT_EQ(statuses[1].detail().offset, kMiB);
  EXPECT_TRUE(statuses[2].ok());
  EXPECT_TRUE(statuses[3].ok());
}

TEST_F(CudaStreamTest, AFailingDeviceEndsTheLoadSoon) {
  const std::string path = make_file("model", 32 * kMiB);
  auto memory = std::make_unique<DeviceMemory>(32 * kMiB);
  auto load = stream(options());
  open(*load, {path});
  standin_fail("run copy", 2, 1, 700, 1);
  const auto ranges = cut(32 * kMiB, {kMiB}, memory->data, 1);
  ASSERT_TRUE(load->submit({{0, ranges}}, kCuda0).ok());
  int failed = 0;
  for (const Status& status : drain(*load, 32)) {
    if (status.ok()) continue;
    ++failed;
    EXPECT_EQ(status.code(), Code::kDevice) << status.to_string();
    EXPECT_EQ(status.detail().path, path);
  }
  EXPECT_GT(failed, 0);
  // The host path does not depend on it.
  ASSERT_TRUE(load->submit({{0, {{0, kMiB}}}}).ok());
  expect_ok(drain(*load, 1));
  load.reset();
  memory.reset();
  standin_reset(2, kGiB);
  standin_use(0);
}

TEST_F(CudaStreamTest, AnUnusableDeviceIsRefusedWhenWorkIsSubmitted) {
  const std::string path = make_file("model", kMiB);
  const DeviceMemory memory(kMiB);
  auto load = stream(options());
  open(*load, {path});
  const std::vector<FileRanges> work{{0, {{0, kMiB, memory.data}}}};
  EXPECT_EQ(load->submit(work, {DeviceType::kCuda, 9}).status().code(), Code::kDevice);
  EXPECT_EQ(load->submit(work, {DeviceType::kCuda, 1}).status().code(), Code::kDevice);
  EXPECT_EQ(load->submit({{0, {{0, kMiB, nullptr}}}}, kCuda0).status().code(), Code::kInvalid);
  ASSERT_TRUE(load->submit(work, kCuda0).ok());
  expect_ok(drain(*load, 1));
  EXPECT_EQ(memory.bytes(), content(kMiB));
}

TEST_F(CudaStreamTest, WithoutADriverTheHostPathWorks) {
  const std::string path = make_file("model", kMiB);
  auto load = stream(options({{"RUNAI_STREAMER_CUDA_LIBRARY", "/nonexistent/libcuda.so.1"}}));
  open(*load, {path});
  const DeviceMemory memory(kMiB);
  const auto refused = load->submit({{0, {{0, kMiB, memory.data}}}}, kCuda0);
  EXPECT_EQ(refused.status().code(), Code::kDevice);
  EXPECT_NE(refused.status().to_string().find("no usable GPU driver"), std::string::npos);
  ASSERT_TRUE(load->submit({{0, {{0, kMiB}}}}).ok());
  expect_ok(drain(*load, 1));
}

TEST_F(CudaStreamTest, AReadErrorGivesTheSlotBack) {
  const std::string path = make_file("model", 4 * kMiB);
  const DeviceMemory memory(4 * kMiB);
  Options settings = options();
  settings.fs_strategy.strategy = FsStrategy::kBuffered;
  settings.concurrency = 2;
  auto load = stream(std::move(settings));
  open(*load, {path});
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(kMiB)), 0);
  ASSERT_TRUE(load->submit({{0, {{2 * kMiB, 2 * kMiB, memory.data}}}}, kCuda0).ok());
  const auto statuses = drain(*load, 1);
  EXPECT_EQ(statuses[0].code(), Code::kShortRead) << statuses[0].to_string();
}

TEST_F(CudaStreamTest, PinnedMemoryThatCannotBeHadIsAnErrorWithItsSize) {
  const std::string path = make_file("model", 4 * kMiB);
  const DeviceMemory memory(4 * kMiB);
  auto load = stream(options());
  open(*load, {path});
  standin_fail("cuMemHostRegister_v2", 0, 1000, 2, 0);
  ASSERT_TRUE(load->submit({{0, {{0, 4 * kMiB, memory.data}}}}, kCuda0).ok());
  const auto statuses = drain(*load, 1);
  EXPECT_EQ(statuses[0].code(), Code::kOutOfMemory);
  EXPECT_NE(statuses[0].to_string().find("bytes of host memory can't be pinned"),
            std::string::npos);
  EXPECT_EQ(load->stats().notes.count("cuda:0 pinned bytes"), 1U);
}

TEST_F(CudaStreamTest, ClosingWhileCopiesAreInFlight) {
  const std::string path = make_file("model", 16 * kMiB);
  for (int round = 0; round < 10; ++round) {
    const DeviceMemory memory(16 * kMiB);
    auto load = stream(options());
    open(*load, {path});
    standin_link(200 * kMiB);
    ASSERT_TRUE(load->submit({{0, cut(16 * kMiB, {kMiB}, memory.data, 1)}}, kCuda0).ok());
    ASSERT_TRUE(load->next().ok());
    load.reset();  // when it returns, nothing writes to `memory` any more
  }
}

TEST_F(CudaStreamTest, ManyRoundsLeaveNothing) {
  const std::string path = make_file("model", 2 * kMiB);
  const DeviceMemory memory(2 * kMiB);
  for (int round = 0; round < 100; ++round) {
    auto load = stream(options());
    open(*load, {path});
    ASSERT_TRUE(load->submit({{0, cut(2 * kMiB, {300'000}, memory.data, 1)}}, kCuda0).ok());
    expect_ok(drain(*load, 7));
  }
  EXPECT_EQ(counts().pinned_bytes, 0U);
  EXPECT_EQ(counts().context_references, 1U);
}

TEST_F(CudaStreamTest, AChildThatForkedDuringALoadDoesNoHarm) {
  const std::string path = make_file("model", 8 * kMiB);
  const DeviceMemory memory(8 * kMiB);
  auto load = stream(options());
  open(*load, {path});
  standin_link(200 * kMiB);
  ASSERT_TRUE(load->submit({{0, {{0, 8 * kMiB, memory.data}}}}, kCuda0).ok());
  const pid_t child = fork();
  if (child == 0) {
    const bool refused = !load->next().ok();
    load.reset();
    _exit(refused ? 0 : 1);
  }
  expect_ok(drain(*load, 1));
  EXPECT_EQ(memory.bytes(), content(8 * kMiB));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(CudaStreamTest, WhatACopyThatDoesNotEndMayWriteToIsNeverFreed) {
  const std::string path = make_file("a", kMiB);
  auto memory = std::make_shared<DeviceMemory>(kMiB);
  const std::weak_ptr<DeviceMemory> watched = memory;
  {
    auto loading = stream(options({{"RUNAI_STREAMER_CUDA_TIMEOUT", "1"}}));
    open(*loading, {path});
    standin_link(kMiB / 2);
    FileRanges wanted{.file = 0, .ranges = {{0, kMiB, memory->data}}};
    wanted.keep = std::move(memory);
    ASSERT_TRUE(loading->submit({std::move(wanted)}, kCuda0).ok());
    EXPECT_EQ(drain(*loading, 1)[0].code(), Code::kTimeout);
  }
  EXPECT_FALSE(watched.expired());
  EXPECT_EQ(counts().violations, 0U) << standin_violation();
  while (counts().copies == 0) std::this_thread::yield();
  EXPECT_EQ(counts().violations, 0U) << standin_violation();
  standin_reset(2, kGiB);
  standin_use(0);
}

}  // namespace
}  // namespace streamer
