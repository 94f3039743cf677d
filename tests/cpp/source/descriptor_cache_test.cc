#include "source/file/descriptor_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "source/temporary.h"

namespace streamer {
namespace {

using testing::Directory;

class Descriptors : public ::testing::Test {
 protected:
  std::unique_ptr<FileDescriptors> open(const std::string& name) {
    struct stat info {};
    auto opened = FileDescriptors::open(cache_, directory_.write(name, 1, 5000), &info);
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    EXPECT_EQ(info.st_size, 5000);
    return opened.ok() ? std::move(*opened) : nullptr;
  }
  static bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

  const Directory directory_;
  const std::shared_ptr<DescriptorCache> cache_ = std::make_shared<DescriptorCache>(4);
};

TEST_F(Descriptors, FewAreOpenAtOnceAndEachFileIsRead) {
  std::vector<std::unique_ptr<FileDescriptors>> files;
  for (int i = 0; i < 20; ++i) files.push_back(open("f" + std::to_string(i)));
  EXPECT_EQ(cache_->open(), 4U);
  for (int round = 0; round < 2; ++round) {
    for (const auto& file : files) {
      for (const DescriptorKind kind :
           {DescriptorKind::kShared, DescriptorKind::kDirect, DescriptorKind::kProbe}) {
        const auto borrowed = file->borrow(kind);
        ASSERT_TRUE(borrowed.ok()) << borrowed.status().to_string();
        EXPECT_TRUE(is_open(borrowed->fd()));
        const bool direct = (fcntl(borrowed->fd(), F_GETFL) & O_DIRECT) != 0;
        EXPECT_EQ(direct, kind == DescriptorKind::kDirect);
      }
      EXPECT_LE(cache_->open(), 4U);
    }
  }
  files.clear();
  EXPECT_EQ(cache_->open(), 0U);
}

TEST_F(Descriptors, WhatIsInUseStaysOpen) {
  std::vector<std::unique_ptr<FileDescriptors>> files;
  std::vector<FileDescriptors::Borrowed> borrowed;
  std::set<int> numbers;
  for (int i = 0; i < 10; ++i) {
    files.push_back(open("f" + std::to_string(i)));
    borrowed.push_back(files.back()->borrow(DescriptorKind::kShared).value());
    numbers.insert(borrowed.back().fd());
  }
  EXPECT_EQ(numbers.size(), 10U);
  for (const int fd : numbers) EXPECT_TRUE(is_open(fd));
  borrowed.clear();
  EXPECT_LE(cache_->open(), 4U);
}

TEST_F(Descriptors, AStreamIsOneThreadsAndIsFoundByItsPosition) {
  const auto file = open("a");
  auto first = file->borrow_stream(0).value();
  auto second = file->borrow_stream(100).value();
  EXPECT_NE(first.fd(), second.fd());
  first.set_position(50);
  second.set_position(200);
  const int fd = second.fd();
  { const auto gone = std::move(first); }
  { const auto gone = std::move(second); }
  EXPECT_EQ(file->borrow_stream(200)->fd(), fd);
  EXPECT_NE(file->borrow_stream(50)->fd(), fd);
}

TEST_F(Descriptors, WhereThereAreTooManyStreamsTheyShare) {
  const auto file = open("a");
  std::vector<FileDescriptors::Borrowed> streams;
  std::set<int> numbers;
  for (std::size_t i = 0; i < DescriptorCache::kMostStreams + 10; ++i) {
    streams.push_back(file->borrow_stream(i).value());
    numbers.insert(streams.back().fd());
  }
  EXPECT_EQ(numbers.size(), DescriptorCache::kMostStreams + 1);
}

TEST_F(Descriptors, AnotherFileOfTheSameNameIsNotTakenForIt) {
  const auto file = open("a");
  std::vector<std::unique_ptr<FileDescriptors>> others;
  for (int i = 0; i < 4; ++i) others.push_back(open("f" + std::to_string(i)));
  std::filesystem::rename(directory_.path("f0"), directory_.path("a"));
  EXPECT_EQ(file->borrow(DescriptorKind::kShared).status().code(), Code::kChanged);
  std::filesystem::remove(directory_.path("a"));
  EXPECT_EQ(file->borrow(DescriptorKind::kShared).status().code(), Code::kChanged);
}

TEST_F(Descriptors, AFileSystemMayGiveItAnotherNumber) {
  const auto file = open("a");
  file->ignore_numbers();
  struct stat before {};
  ASSERT_EQ(stat(directory_.path("a").c_str(), &before), 0);
  const auto take_its_name = [&](std::uint64_t size, timespec time) {
    std::filesystem::rename(directory_.write("b", 1, size), directory_.path("a"));
    const timespec times[] = {time, time};
    ASSERT_EQ(utimensat(AT_FDCWD, directory_.path("a").c_str(), times, 0), 0);
  };
  take_its_name(5000, before.st_mtim);
  EXPECT_TRUE(file->borrow(DescriptorKind::kDirect).ok());
  take_its_name(5001, before.st_mtim);
  EXPECT_FALSE(file->borrow(DescriptorKind::kProbe).ok());
  take_its_name(5000, {1, 0});
  EXPECT_FALSE(file->borrow(DescriptorKind::kProbe).ok());
}

TEST_F(Descriptors, AShortageOfTheProcessClosesWhatIsIdle) {
  std::vector<std::unique_ptr<FileDescriptors>> files;
  for (int i = 0; i < 4; ++i) files.push_back(open("f" + std::to_string(i)));
  const std::string path = directory_.write("more", 1, 5000);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const int next = dup(0);
  close(next);
  rlimit few = before;
  few.rlim_cur = static_cast<rlim_t>(next);
  setrlimit(RLIMIT_NOFILE, &few);
  struct stat info {};
  const bool opened = FileDescriptors::open(cache_, path, &info).ok();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(opened);
}

// Threads that hold one each, where the process has few, wait for one another.
TEST_F(Descriptors, AShortageOfTheProcessIsWaitedFor) {
  std::vector<std::unique_ptr<FileDescriptors>> files;
  for (int i = 0; i < 6; ++i) files.push_back(open("f" + std::to_string(i)));
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const int next = dup(0);
  close(next);
  rlimit few = before;
  few.rlim_cur = static_cast<rlim_t>(next);  // the four that are open are all that there can be
  setrlimit(RLIMIT_NOFILE, &few);
  std::vector<std::thread> threads;
  std::atomic<int> refused{0};
  for (std::size_t thread = 0; thread < 6; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::size_t i = 0; i < 50; ++i) {
        const auto borrowed = files[(i + thread) % 6]->borrow(DescriptorKind::kShared);
        if (!borrowed.ok()) ++refused;
        std::this_thread::yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(refused, 0);
}

TEST_F(Descriptors, ThreadsBorrowAtTheSameTime) {
  std::vector<std::unique_ptr<FileDescriptors>> files;
  for (int i = 0; i < 12; ++i) files.push_back(open("f" + std::to_string(i)));
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 500; ++i) {
        const FileDescriptors& file = *files[static_cast<std::size_t>(i * 7 + thread) % 12];
        const auto shared = file.borrow(DescriptorKind::kShared);
        const auto stream = file.borrow_stream(static_cast<std::uint64_t>(i));
        char byte = 0;
        if (!shared.ok() || pread(shared->fd(), &byte, 1, 0) != 1) ADD_FAILURE();
        if (!stream.ok() || pread(stream->fd(), &byte, 1, 1) != 1) ADD_FAILURE();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache_->open(), 4U);
}

}  // namespace
}  // namespace streamer
