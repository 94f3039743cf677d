// A file of a pattern, mapped as a guarded view.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "source/file/file_view.h"
#include "source/temporary.h"

namespace streamer::testing {

class MappedFile : public ::testing::Test {
 protected:
  ~MappedFile() override {
    view_.reset();
    close_file();
  }
  void open(std::uint64_t size) {
    close_file();
    path_ = directory_.write("a", kSeed, size);
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd_, 0);
  }
  void map(std::uint64_t size, bool guarded = true) {
    open(size);
    int os_error = 0;
    view_ = FileView::map(fd_, size, guarded, &os_error);
    ASSERT_NE(view_, nullptr) << os_error;
    ASSERT_EQ(view_->populate(0, size, false), 0);
  }
  void cut(std::uint64_t size) { ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(size)), 0); }

  static constexpr std::uint64_t kSeed = 3;
  Directory directory_;
  std::string path_;
  int fd_ = -1;
  std::unique_ptr<FileView> view_;

 private:
  void close_file() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
};

}  // namespace streamer::testing
