// Ranged reads: bodies are received straight into their destination.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "source/http/client/attempt.h"
#include "source/http/client/curl_transfer.h"
#include "source/http/client/response_parser.h"
#include "source/http/client/server_socket.h"

namespace streamer::http {

// Keeps connections for the next attempt. Owned by one thread.
class DirectTransfer {
 public:
  DirectTransfer();
  ~DirectTransfer();
  DirectTransfer(const DirectTransfer&) = delete;
  DirectTransfer& operator=(const DirectTransfer&) = delete;

  // True if it can make `request`: GET or HEAD, straight (null) or by `proxy`.
  static bool serves(const Request& request, const ProxyServer* proxy, const Attempt& attempt);
  TransferResult perform(const Request& request, const ProxyServer* proxy, Attempt* attempt,
                         TransferTimes* times);

 private:
  struct Channel;

  Channel& channel_to(const std::string& origin, const std::string& proxy);
  TransferResult connect(Channel* channel, const Request& request, const Url& url,
                         const ProxyServer* proxy, Attempt* attempt);
  TransferResult connect_once(Channel* channel, const Url& url, const Route& route, int timeout_ms,
                              Attempt* attempt);
  TransferResult exchange(Channel* channel, const std::string& text, ResponseParser* reader,
                          Attempt* attempt, Clock::time_point end, TransferTimes* times);

  // A redirecting server and the one it redirects to.
  std::array<std::unique_ptr<Channel>, 2> channels_;
};

}  // namespace streamer::http
