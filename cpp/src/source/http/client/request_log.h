// The request log: one line per attempt, without secrets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "source/http/client/request.h"

namespace streamer::http {

// `url` without the parts that may grant access: user info, and of the query all but the parameters
// that protocols are known to ask for. If the query is not `own`, but came from outside, nothing of
// it is left.
std::string redact_url(std::string_view url, bool own = true);

// Thread-safe. Lines are appended whole, so that processes can share a file.
class Trace {
 public:
  // Appends to `file`; empty: off. Unless links are followed, only a regular file of this user is
  // written to.
  Trace(const std::string& file, bool follow_links);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  bool on() const { return fd_ >= 0; }

  struct Line {
    const Request* request = nullptr;
    const Response* response = nullptr;
    std::string_view error;  // empty: a response came
    std::uint64_t bytes = 0;
    std::int64_t connection = 0;  // the local port
    bool reused = false;
    int retry = 0;
  };
  void write(const Line& line);

 private:
  int fd_ = -1;
};

}  // namespace streamer::http
