// The request to a SOCKS proxy to connect to a server: SOCKS4, 4a, and SOCKS5 of RFC 1928 with the
// user and the password of RFC 1929. Knows no connection.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "source/http/client/proxy.h"
#include "streamer/status.h"

namespace streamer::http {

// The owner of the connection sends and receives the bytes:
//
//   while (handshake.status().ok() && !handshake.done()) {
//     if (!handshake.to_send().empty()) { handshake.sent(n of to_send()); }
//     else { handshake.received(at most missing() bytes); }
//   }
class SocksHandshake {
 public:
  // `host` is an address, or a name that the proxy is to resolve.
  SocksHandshake(const ProxyServer& proxy, const std::string& host, int port);

  std::string_view to_send() const { return std::string_view(text_).substr(sent_); }
  void sent(std::size_t size) { sent_ += size; }
  // Bytes that the reply has at least beside those that came. What follows it is the server's.
  std::size_t missing() const { return expected_ - reply_.size(); }
  void received(std::string_view bytes);

  bool done() const { return state_ == State::kDone; }
  const Status& status() const { return status_; }       // why it failed
  bool refused() const { return refused_; }              // by the server: its port is closed
  bool final() const { return final_; }                  // another attempt would fail, too
  bool login_refused() const { return login_refused_; }  // by the proxy, or there is none

 private:
  enum class State { kConnect4, kMethod, kLogin, kConnect5, kDone };

  void say(std::string text, State state, std::size_t expected);
  void connect4(const std::string& host);
  void connect5();
  void read_connect4();
  void read_method();
  void read_login();
  void read_connect5();
  void fail(std::string message, std::string hint = {});
  void not_socks();
  unsigned at(std::size_t i) const { return static_cast<unsigned char>(reply_[i]); }

  const ProxyServer& proxy_;
  std::string port_;    // two bytes
  std::string target_;  // of SOCKS5: the kind of address, and the address
  State state_ = State::kDone;
  std::string text_;
  std::size_t sent_ = 0;
  std::string reply_;
  std::size_t expected_ = 0;
  Status status_;
  bool refused_ = false;
  bool final_ = false;
  bool login_refused_ = false;
};

}  // namespace streamer::http
