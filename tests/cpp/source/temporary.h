// Files for tests, in a directory of their own on a disk (not a tmpfs: that has no O_DIRECT).
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/fake_storage.h"

namespace streamer::testing {

class Directory {
 public:
  Directory() {
    std::string name = (std::filesystem::current_path() / "streamer-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::string path(const std::string& name) const { return path_ + "/" + name; }
  // Takes what is in the page cache of a file out of it.
  static void evict(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
  // A file of `size` bytes of the pattern of `seed`.
  std::string write(const std::string& name, std::uint64_t seed, std::uint64_t size) const {
    std::vector<char> bytes(size);
    for (std::uint64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(pattern(seed, i));
    std::ofstream(path(name), std::ios::binary).write(bytes.data(), static_cast<long>(size));
    return path(name);
  }

 private:
  std::string path_;
};

}  // namespace streamer::testing
