// Any request, by libcurl from end to end.
#pragma once

#include "source/http/client/curl_handle.h"

namespace streamer::http {

// The times of an attempt, for the trace.
struct TransferTimes {
  double first_byte = 0;        // seconds until it came
  std::int64_t connection = 0;  // the local port
  bool reused = false;
};

// Keeps its connections for the next attempt. Owned by one thread.
class CurlTransfer {
 public:
  // Straight (null) or by `proxy`.
  TransferResult perform(const Request& request, const ProxyServer* proxy, Attempt* attempt,
                         TransferTimes* times);

 private:
  CurlHandle handle_;
};

}  // namespace streamer::http
