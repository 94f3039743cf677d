#include "source/file/page_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <iterator>

#include "base/memory_units.h"
#include "source/temporary.h"
#include "streamer/storage.h"

namespace streamer {
namespace {

using testing::Directory;

// Brings [offset, offset + size) of a file into the page cache, and nothing else.
void read(const std::string& path, std::uint64_t offset, std::uint64_t size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  std::vector<char> bytes(size);
  ASSERT_EQ(pread(fd, bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
  ::close(fd);
}

class OpenFile final : public PageCacheDescriptors {
 public:
  explicit OpenFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() override { ::close(fd_); }
  int plain() override { return fd_; }
  int without_readahead() override { return -1; }

 private:
  const int fd_;
};

class PageCache : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  const Directory directory_;
  const std::uint64_t size_ = GetParam();  // counted, and sampled
  const std::string path_ = directory_.write("a", 1, size_);
};

TEST_P(PageCache, TellsAllHalfAndNothing) {
  EXPECT_EQ(*cached_fraction(path_), 1);
  Directory::evict(path_);
  EXPECT_EQ(*cached_fraction(path_), 0);
  read(path_, 0, size_ / 2);
  EXPECT_NEAR(*cached_fraction(path_), 0.5, 0.05);
}

TEST_P(PageCache, IsNotFilledByTheQuestion) {
  Directory::evict(path_);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(*cached_fraction(path_), 0);
}

TEST_P(PageCache, TellsOfARange) {
  Directory::evict(path_);
  read(path_, size_ / 2, size_ / 4);
  OpenFile file(path_);
  EXPECT_EQ(cached_fraction(file, size_ / 2, size_ / 4), 1);
  EXPECT_EQ(cached_fraction(file, 0, size_ / 4), 0);
  EXPECT_EQ(cached_fraction(file, 0, 0), 1);
}

INSTANTIATE_TEST_SUITE_P(Sizes, PageCache, ::testing::Values(4 * kMiB, 40 * kMiB));

// From now on cachestat(2) fails in this process, as on kernels before 6.5.
bool forbid_cachestat() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 451, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_P(PageCache, IsSampledByReadsThatDoNotWaitOnOldKernels) {
  const pid_t child = fork();
  if (child == 0) {
    if (!forbid_cachestat()) _exit(10);
    if (*cached_fraction(path_) != 1) _exit(1);
    Directory::evict(path_);
    _exit(*cached_fraction(path_) == 0 ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(CachedFraction, OfAnEmptyFileIsOneAndOfNoneAnError) {
  const Directory directory;
  EXPECT_EQ(*cached_fraction(directory.write("a", 1, 0)), 1);
  EXPECT_EQ(cached_fraction(directory.path("none")).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace streamer
