// Streams of files, end to end, by each strategy.
#include "streamer/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "engine/stream_fixture.h"
#include "source/system_calls.h"
#include "source/temporary.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;
using testing::Directory;
using testing::Gate;
using testing::kKiB;
using testing::kMiB;
using testing::matches;
using testing::Piece;
using testing::Streaming;
using testing::SystemCalls;

TEST_P(Streaming, GivesEveryByteOfManyFiles) {
  std::mt19937_64 random(7);
  std::vector<std::string> paths;
  std::vector<FileRanges> wanted;
  for (std::uint32_t f = 0; f < 4; ++f) {
    FileRanges ranges{f, {}, {}};
    std::uint64_t end = f * 3;
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t size = random() % (i % 4 == 0 ? 3 * kMiB : 3000);
      ranges.ranges.push_back({end, size, nullptr, 1});
      end += size;
    }
    paths.push_back(directory_.write(std::to_string(f), f, end));
    wanted.push_back(std::move(ranges));
  }
  auto stream = make();
  auto opened = stream->open(paths, 16);
  ASSERT_TRUE(opened.ok());
  for (std::uint32_t f = 0; f < 4; ++f) {
    EXPECT_TRUE((*opened)[f].status.ok());
    EXPECT_EQ((*opened)[f].size, std::filesystem::file_size(paths[f]));
    EXPECT_TRUE(matches((*opened)[f].prefix.data(), f, 0, 16));
  }
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  const Stats stats = stream->stats();
  stream.reset();  // what was delivered stays
  ASSERT_EQ(pieces.size(), 160u);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    EXPECT_EQ(piece.seed, i / 40);  // in order
    bytes += piece.size;
    EXPECT_TRUE(matches(piece.data, piece.seed, piece.offset, piece.size));
  }
  EXPECT_EQ(stats.bytes, bytes);
  EXPECT_EQ(stats.bytes_by_source[static_cast<int>(SourceKind::kFile)], bytes);
  EXPECT_GT(stats.requests, 0u);
  EXPECT_GT(stats.threads, 0);
}

TEST_P(Streaming, ReadsIntoMemoryOfTheCaller) {
  const std::string path = directory_.write("a", 0, 6 * kMiB);
  std::vector<std::byte> memory(6 * kMiB);
  std::vector<FileRanges> wanted{{0, {{1, 5 * kMiB, memory.data()}}, {}}};
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  EXPECT_TRUE(matches(memory.data(), 0, 1, 5 * kMiB));
  EXPECT_EQ(stream->stats().peak_memory, 0u);
}

TEST_P(Streaming, StaysWithinALimitAndNeverWritesDeliveredMemoryAgain) {
  Options options;
  options.memory_limit = MemoryLimit::bytes(2 * kMiB);
  options.concurrency = 4;
  const std::string path = directory_.write("a", 0, 40 * kMiB);
  std::vector<FileRanges> wanted{{0, {}, {}}};
  for (int i = 0; i < 40; ++i) wanted[0].ranges.push_back({i * kMiB, kMiB, nullptr, 64});
  auto stream = make(options);
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  EXPECT_LE(stream->stats().peak_memory, 2 * kMiB);
  for (const Piece& piece : pieces) {
    EXPECT_TRUE(matches(piece.data, 0, piece.offset, piece.size)) << piece.offset;
  }
}

TEST_P(Streaming, FilesThatCannotBeOpenedHaveTheirOwnError) {
  const std::string good = directory_.write("a", 0, 1000);
  auto stream = make();
  auto opened = stream->open({good, directory_.path("gone"), directory_.path("")});
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE((*opened)[0].status.ok());
  EXPECT_EQ((*opened)[1].status.code(), Code::kNotFound);
  EXPECT_EQ((*opened)[2].status.code(), Code::kInvalid);
  std::vector<FileRanges> wanted{{1, {{0, 10}}, {}}};
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  EXPECT_EQ(drain(*stream, wanted, &pieces).code(), Code::kNotFound);
}

TEST_P(Streaming, OpensAndReadsInSteps) {
  std::vector<std::string> paths;
  for (std::uint32_t f = 0; f < 20; ++f)
    paths.push_back(directory_.write(std::to_string(f), f, 99));
  paths[7] = directory_.path("gone");
  auto stream = make();
  ASSERT_TRUE(stream->open({paths[0]}).ok());
  auto first = stream->open_begin(paths, 16);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*first, 1u);
  EXPECT_EQ(stream->opened(0).status().code(), Code::kInvalid);
  EXPECT_EQ(stream->opened(2).status().code(), Code::kInvalid);
  EXPECT_EQ(stream->submit({{20, {{0, 9}}, {}}}).status().code(), Code::kInvalid);
  std::vector<OpenedFile> files;
  while (files.size() < paths.size()) {
    auto some = stream->opened(*first + static_cast<std::uint32_t>(files.size()));
    ASSERT_TRUE(some.ok());
    ASSERT_FALSE(some->empty());
    for (OpenedFile& file : *some) files.push_back(std::move(file));
  }
  EXPECT_EQ(stream->opened(*first).status().code(), Code::kInvalid);
  for (std::uint32_t f = 0; f < 20; ++f) {
    EXPECT_EQ(files[f].index, *first + f);
    EXPECT_EQ(files[f].status.code(), f == 7 ? Code::kNotFound : Code::kOk);
    EXPECT_TRUE(f == 7 || matches(files[f].prefix.data(), f, 0, 16));
  }
  auto reading = stream->read_begin({{4, {{16, 5}, {0, 0}}, {}}, {20, {{90, 9}}, {}}});
  ASSERT_TRUE(reading.ok());
  for (const auto& [seed, offset, size] :
       {std::array{3u, 16u, 5u}, std::array{3u, 0u, 0u}, std::array{19u, 90u, 9u}}) {
    auto bytes = stream->read_next(*reading);
    ASSERT_TRUE(bytes.ok());
    ASSERT_EQ(bytes->size(), size);
    EXPECT_TRUE(matches(bytes->data(), seed, offset, size));
  }
  EXPECT_EQ(stream->read_next(*reading).status().code(), Code::kInvalid);
  EXPECT_EQ(stream->read_begin({{8, {{0, 9}}, {}}}).status().code(), Code::kNotFound);
}

TEST_P(Streaming, ATruncatedFileIsAnError) {
  Options options;
  options.memory_limit = MemoryLimit::bytes(2 * kMiB);  // most is read after the first
  const std::string path = directory_.write("a", 0, 32 * kMiB);
  std::vector<FileRanges> wanted{{0, {}, {}}};
  for (int i = 0; i < 32; ++i) wanted[0].ranges.push_back({i * kMiB, kMiB});
  auto stream = make(options);
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(8 * kMiB)), 0);
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  const Status status = drain(*stream, wanted, &pieces);
  EXPECT_TRUE(status.code() == Code::kShortRead || status.code() == Code::kChanged)
      << status.to_string();
}

TEST_P(Streaming, AFileThatIsModifiedInPlaceIsAnError) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  std::this_thread::sleep_for(milliseconds(20));  // the clock of modification times is coarse
  directory_.write("a", 1, 4 * kMiB);
  std::vector<FileRanges> wanted{{0, {{0, kMiB}}, {}}};
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  EXPECT_EQ(drain(*stream, wanted, &pieces).code(), Code::kChanged);
  EXPECT_EQ(stream->unchanged(0).code(), Code::kChanged);
}

TEST_P(Streaming, AFileThatIsReplacedByRenamingIsReadWhole) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  std::filesystem::rename(directory_.write("b", 1, 4 * kMiB), path);
  std::vector<FileRanges> wanted{{0, {{0, 4 * kMiB}}, {}}};
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  EXPECT_TRUE(matches(pieces.at(0).data, 0, 0, 4 * kMiB));
}

TEST_P(Streaming, AReadErrorFailsItsRangesOnly) {
  const std::string path = directory_.write("a", 0, 16 * kMiB);
  Options options;
  options.chunk_bytes = kMiB;
  auto stream = make(options);
  ASSERT_TRUE(stream->open({path}).ok());
  const SystemCalls calls(
      [](int, off_t offset, std::size_t bytes, bool nowait) -> std::optional<ssize_t> {
        if (nowait) return -EAGAIN;
        const auto bad = static_cast<off_t>(5 * kMiB + 100);
        if (offset <= bad && offset + static_cast<off_t>(bytes) > bad) return -EIO;
        return std::nullopt;
      },
      [](void*, std::size_t) { return EFAULT; });
  std::vector<FileRanges> wanted{{0, {}, {}}};
  std::vector<std::byte> memory(16 * kMiB);
  for (int i = 0; i < 16; ++i) {
    wanted[0].ranges.push_back({i * kMiB, kMiB, memory.data() + i * kMiB});
  }
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  const Status status = drain(*stream, wanted, &pieces);
  EXPECT_EQ(status.code(), Code::kIo);
  EXPECT_EQ(status.detail().os_error, EIO);
  EXPECT_EQ(status.detail().path, path);
  EXPECT_TRUE(status.detail().has_range);
  EXPECT_GE(pieces.size(), 13u);
  for (const Piece& piece : pieces) EXPECT_NE(piece.offset, 5 * kMiB);
}

TEST_P(Streaming, ASecondSubmissionGoesOnWhereTheFirstEnded) {
  const std::string path = directory_.write("a", 0, 2 * kMiB);
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  std::vector<FileRanges> wanted{{0, {{0, kMiB}}, {}}};
  EXPECT_EQ(*stream->submit(wanted), 0u);
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  wanted[0].ranges[0].offset = kMiB;
  EXPECT_EQ(*stream->submit(wanted), 1u);
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_TRUE(matches(pieces[1].data, 0, kMiB, kMiB));
}

TEST_P(Streaming, TwoStreamsDoNotDisturbEachOther) {
  const std::string path = directory_.write("a", 0, 8 * kMiB);
  std::vector<FileRanges> wanted{{0, {{0, 4 * kMiB}, {4 * kMiB, 4 * kMiB}}, {}}};
  auto one = make();
  auto other = make();
  for (auto* stream : {&one, &other}) {
    ASSERT_TRUE((*stream)->open({path}).ok());
    ASSERT_TRUE((*stream)->submit(wanted).ok());
  }
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*other, wanted, &pieces).ok());
  other.reset();
  ASSERT_TRUE(drain(*one, wanted, &pieces).ok());
  ASSERT_EQ(pieces.size(), 4u);
  for (const Piece& piece : pieces) {
    EXPECT_TRUE(matches(piece.data, 0, piece.offset, piece.size));
  }
}

TEST_P(Streaming, WhatIsHeldIsDetachedFromItsFile) {
  const std::string path = directory_.write("a", 0, 24 * kMiB);
  std::vector<FileRanges> wanted{{0, {}, {}}};
  for (int i = 0; i < 24; ++i) wanted[0].ranges.push_back({i * kMiB + 5, kMiB - 10, nullptr, 1});
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  std::vector<Piece> pieces;
  ASSERT_TRUE(drain(*stream, wanted, &pieces).ok());
  pieces.erase(pieces.begin() + 3, pieces.begin() + 7);
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  for (const Piece& piece : pieces) {
    EXPECT_TRUE(matches(piece.data, 0, piece.offset, piece.size)) << piece.offset;
  }
  EXPECT_TRUE(stream->detach_views().ok());  // nothing is left to detach
}

TEST_P(Streaming, SharedViewsStayViews) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  std::vector<FileRanges> wanted{{0, {{0, 4 * kMiB}}, {}, Ownership::kShared}};
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  auto batch = stream->next();
  ASSERT_TRUE(batch.ok() && batch->ready.size() == 1);
  const Ready ready = std::move(batch->ready[0]);
  ASSERT_TRUE(stream->detach_views().ok());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(pwrite(fd, "changed", 7, 4096), 7);
  ::close(fd);
  const bool seen = std::memcmp(ready.data + ready.positions[0] + 4096, "changed", 7) == 0;
  EXPECT_EQ(seen, ready.view);
}

TEST_P(Streaming, CopiedRangesAreNoViews) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  std::vector<FileRanges> wanted{{0, {{0, 4 * kMiB}}, {}, Ownership::kCopied}};
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  auto batch = stream->next();
  ASSERT_TRUE(batch.ok() && batch->ready.size() == 1);
  EXPECT_FALSE(batch->ready[0].view);
}

TEST_P(Streaming, AFileThatChangesBeforeItsViewsAreDetachedIsAnError) {
  const std::string path = directory_.write("a", 0, 4 * kMiB);
  std::vector<FileRanges> wanted{{0, {{0, 4 * kMiB}}, {}}};
  auto stream = make();
  ASSERT_TRUE(stream->open({path}).ok());
  ASSERT_TRUE(stream->submit(wanted).ok());
  auto batch = stream->next();
  ASSERT_TRUE(batch.ok() && batch->ready.size() == 1);
  std::this_thread::sleep_for(milliseconds(20));  // the clock of modification times is coarse
  ASSERT_EQ(truncate(path.c_str(), 0), 0);
  const Status status = stream->detach_views();
  if (!batch->ready[0].view) {
    EXPECT_TRUE(status.ok()) << status.to_string();
  } else {
    EXPECT_EQ(status.code(), Code::kChanged);
    EXPECT_EQ(status.detail().path, path);
  }
}

INSTANTIATE_TEST_SUITE_P(Strategies, Streaming, testing::strategies(), testing::name_of);

TEST(Stream, NamesTheStrategyThatServed) {
  const Directory directory;
  const std::string path = directory.write("a", 0, kMiB);
  for (const FsStrategy strategy :
       {FsStrategy::kMapped, FsStrategy::kBuffered, FsStrategy::kDirect}) {
    Options options;
    options.fs_strategy.strategy = strategy;
    auto stream = Stream::create(options);
    ASSERT_TRUE((*stream)->open({path}).ok());
    Directory::evict(path);
    ASSERT_TRUE((*stream)->submit({{0, {{0, kMiB}}, {}}}).ok());
    ASSERT_TRUE((*stream)->next().ok());
    const char* const name = fs_strategy_name(strategy);
    EXPECT_EQ((*stream)->stats().bytes_by_strategy.count(name), 1u) << name;
  }
}

TEST(Stream, RefusesOptionsOutOfRange) {
  const auto refused = [](const std::function<void(Options*)>& change) {
    Options options;
    change(&options);
    return Stream::create(options).status().code() == Code::kInvalid;
  };
  EXPECT_TRUE(refused([](Options* options) { options->concurrency = -1; }));
  EXPECT_TRUE(refused([](Options* options) { options->concurrency = 5000; }));
  EXPECT_TRUE(refused([](Options* options) { options->chunk_bytes = 10; }));
  EXPECT_FALSE(refused([](Options*) {}));
}

TEST(Stream, InterruptionsEndAWait) {
  const Directory directory;
  const std::string path = directory.write("a", 0, kMiB);
  Options options;
  std::atomic<bool> interrupt{false};
  options.interrupted = [&] { return interrupt.load(); };
  auto stream = Stream::create(options);
  ASSERT_TRUE((*stream)->open({path}).ok());
  Gate gate;
  const SystemCalls calls(
      [&](int, off_t, std::size_t, bool nowait) -> std::optional<ssize_t> {
        if (nowait) return -EAGAIN;  // asked under a lock: it never waits
        interrupt = true;
        gate.pass();
        return std::nullopt;
      },
      [&](void*, std::size_t) {
        interrupt = true;
        gate.pass();
        return 0;
      });
  ASSERT_TRUE((*stream)->submit({{0, {{0, kMiB}}, {}}}).ok());
  EXPECT_EQ((*stream)->next().status().code(), Code::kCancelled);
  EXPECT_EQ((*stream)->open({path}, 10).status().code(), Code::kCancelled);
  gate.open();
  stream->reset();
}

TEST(Stream, ReadsRangesAtOnce) {
  const Directory directory;
  const std::string path = directory.write("a", 0, kMiB);
  auto stream = Stream::create({});
  ASSERT_TRUE((*stream)->open({path}).ok());
  std::vector<std::byte> one(1000);
  std::vector<std::byte> other(10);
  ASSERT_TRUE(
      (*stream)->read({{0, {{5, 1000, one.data()}, {0, 0}, {99, 10, other.data()}}, {}}}).ok());
  EXPECT_TRUE(matches(one.data(), 0, 5, 1000));
  EXPECT_TRUE(matches(other.data(), 0, 99, 10));
  EXPECT_EQ((*stream)->read({{1, {{0, 1, one.data()}}, {}}}).code(), Code::kInvalid);
  EXPECT_EQ((*stream)->read({{0, {{kMiB, 1, one.data()}}, {}}}).code(), Code::kShortRead);
}

TEST(Stream, ListsDirectories) {
  const Directory directory;
  directory.write("b", 0, 10);
  directory.write("a", 0, 20);
  std::filesystem::create_directory(directory.path("sub"));
  directory.write("sub/c", 0, 30);
  auto found = list(directory.path(""), false, {});
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].path, directory.path("a"));
  EXPECT_EQ((*found)[0].size, 20u);
  found = list(directory.path(""), true, {});
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->size(), 3u);
  EXPECT_EQ(list(directory.path("nothing"), true, {}).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace streamer
