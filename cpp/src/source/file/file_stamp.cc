#include "source/file/file_stamp.h"

namespace streamer {
namespace {

bool equal(const timespec& one, const timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

}  // namespace

bool FileStamp::matches(const struct stat& now, const std::string& path) const {
  if (now.st_size != info_.st_size || !equal(now.st_mtim, info_.st_mtim)) return false;
  return !exact_ || equal(now.st_ctim, info_.st_ctim) || only_its_name_or_owner_changed(now, path);
}

// Links, renames, chmod() and chown() set the change time as a write does.
bool FileStamp::only_its_name_or_owner_changed(const struct stat& now,
                                               const std::string& path) const {
  if (now.st_nlink != info_.st_nlink || now.st_mode != info_.st_mode ||
      now.st_uid != info_.st_uid || now.st_gid != info_.st_gid) {
    return true;
  }
  struct stat named {};
  const bool renamed =
      stat(path.c_str(), &named) != 0 || named.st_ino != now.st_ino || named.st_dev != now.st_dev;
  return renamed;
}

std::string FileStamp::version(const struct stat& info) {
  return std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec) + "-" +
         std::to_string(info.st_size);
}

}  // namespace streamer
