// The notes of a load's statistics about the versions of the objects that it opened.
#pragma once

#include <cstdint>
#include <ctime>
#include <map>
#include <string>

#include "base/mutex.h"
#include "source/http/protocol.h"

namespace streamer::http {

// Thread-safe.
class Snapshot {
 public:
  // `response` is the first one for the object.
  void opened(const std::string& path, const Version& version, const Response& response)
      EXCLUDES(mutex_);
  // The object has nothing that pins its content.
  void unpinned(const std::string& path) EXCLUDES(mutex_);
  // Adds the notes "versions" and "set", if they apply.
  void describe(std::map<std::string, std::string>* notes) const EXCLUDES(mutex_);

 private:
  struct Told {
    std::uint64_t objects = 0;
    std::string example;  // the path of one of them
  };
  mutable Mutex mutex_;
  std::time_t began_ GUARDED_BY(mutex_) = 0;  // by the clock of the server; 0: unknown
  Told unpinned_ GUARDED_BY(mutex_);
  Told later_ GUARDED_BY(mutex_);  // objects that were written after the load had begun
};

}  // namespace streamer::http
