// An open file, and how it is going to be read.
#pragma once

#include <memory>
#include <string>

#include "source/source.h"

namespace streamer {

enum class FileStrategy {
  kMapped,    // a private mapping, populated ahead; other reads go through the page cache
  kBuffered,  // through the page cache
  kDirect,    // O_DIRECT for what is not in the page cache
};

class PosixObject final : public Object {
 public:
  // Opens `path`. `strategy` is the setting: auto, mapped, buffered or direct.
  static Result<std::shared_ptr<const PosixObject>> open(const std::string& path,
                                                         const std::string& strategy);
  ~PosixObject() override;

  std::byte* view() const override { return view_; }
  void drop_view(std::uint64_t offset, std::uint64_t size) const override;
  Status unchanged() const override;

  int fd() const { return fd_; }
  int direct_fd() const { return direct_fd_; }  // -1: none
  FileStrategy strategy() const { return strategy_; }

 private:
  PosixObject(std::string path, std::uint64_t size, std::string version, int fd);
  void choose(const std::string& wanted);
  bool map();
  bool open_direct();

  int fd_;
  int direct_fd_ = -1;
  FileStrategy strategy_ = FileStrategy::kBuffered;
  std::byte* view_ = nullptr;
};

// The status of a system call on `path` that failed.
Status posix_error(const std::string& what, const std::string& path, int os_error);

// Whether most of the file's pages are in the page cache, by a sample.
bool mostly_cached(int fd, std::uint64_t size);

}  // namespace streamer
