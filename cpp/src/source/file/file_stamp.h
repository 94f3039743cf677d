// Detects if the content of an open file has changed since it was opened.
#pragma once

#include <sys/stat.h>

#include <string>

namespace streamer {

class FileStamp {
 public:
  // `info` is that of the file when it was opened. `exact`: the change time counts, too. It
  // reveals a writer that sets the modification time back. Not for file systems whose change time
  // settles later than their bytes.
  FileStamp(const struct stat& info, bool exact) : info_(info), exact_(exact) {}

  // True if `now`, of the same file, is of the same bytes. The file was opened at `path`.
  bool matches(const struct stat& now, const std::string& path) const;

  // Size and modification time, as text.
  static std::string version(const struct stat& info);

 private:
  bool only_its_name_or_owner_changed(const struct stat& now, const std::string& path) const;

  struct stat info_;
  bool exact_;
};

}  // namespace streamer
