// A connection to a server, straight or by a proxy: the socket, and TLS if the URL is https.
// It has one descriptor; while it connects, it may have one for each address.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "source/http/client/attempt.h"
#include "source/http/client/connection.h"
#include "source/http/client/proxy.h"
#include "source/http/client/tls_session.h"
#include "text/url.h"

namespace streamer::http {

// The way to a server.
struct Route {
  const ProxyServer* proxy = nullptr;  // null: straight
  // Of the proxy, if there is one, else of the server. Empty: its name was not resolved.
  std::vector<std::string> addresses;
  // Of the server, for a SOCKS proxy that is told addresses. Empty: as `addresses`.
  std::string target;
};

// Owned by one thread.
class ServerSocket {
 public:
  ServerSocket() { set_up_openssl(); }
  ~ServerSocket() { close(); }
  ServerSocket(const ServerSocket&) = delete;
  ServerSocket& operator=(const ServerSocket&) = delete;

  // Connects to one of the route's addresses, the first if it responds. The others get their turn
  // as in RFC 8305, so that an address that is silent costs little.
  // An HTTP proxy is asked for a tunnel to the server of an https URL, a SOCKS proxy for any.
  TransferResult connect(const Url& url, const Route& route, std::chrono::milliseconds timeout,
                         Attempt* attempt);
  void close();
  bool open() const { return socket_ >= 0; }

  // `*moved` bytes were sent or received, if the result is kDone. Received 0: the server has closed
  // the connection.
  Io send(const char* data, std::size_t size, std::size_t* moved);
  Io receive(char* data, std::size_t size, std::size_t* moved);
  // The reason of the failure.
  TransferResult failure() const;
  // True if the connection ended without a notice of the server: any party may have ended it.
  bool cut_off() const { return top() != nullptr && !top()->ended_by_peer(); }
  // Sessions of TLS, one over the other.
  int sessions() const { return (tls_.active() ? 1 : 0) + (proxy_tls_.active() ? 1 : 0); }
  // Waits for data or, if `to_write`, for room.
  void wait(bool to_write, std::chrono::milliseconds time) const;
  // Fewer wake-ups: data counts only from so many bytes on.
  void wake_at(int bytes);

  const std::string& peer() const { return peer_; }  // its address
  std::int64_t port() const { return port_; }        // of this side
  CertificateDemand& demand() { return demand_; }

 private:
  // The TCP connection, and TLS over it.
  TransferResult reach(const Url& url, const std::vector<std::string>& addresses,
                       Clock::time_point end, Attempt* attempt);
  TransferResult secure(TlsSession* session, const Url& url, CertificateDemand* demand,
                        Clock::time_point end, Attempt* attempt);
  TransferResult reach_proxy(const Route& route, const Url& url, Clock::time_point end,
                             Attempt* attempt);
  // Have the proxy connect to the server of `url`.
  TransferResult tunnel(const ProxyServer& proxy, const Url& url, Clock::time_point end,
                        Attempt* attempt);
  TransferResult tunnel_by_socks(const ProxyServer& proxy, const Url& url,
                                 const std::string& target, Clock::time_point end,
                                 Attempt* attempt);
  // After `io`: what ends the tunnel to `server`, or ok when more can be sent or received.
  TransferResult tunnel_goes_on(Io io, const std::string& server, Clock::time_point end,
                                Attempt* attempt);
  static TransferResult explained(TransferResult outcome, bool connected,
                                  const CertificateDemand& demand);
  TlsSession* top() { return tls_.active() ? &tls_ : proxy_tls_.active() ? &proxy_tls_ : nullptr; }
  const TlsSession* top() const { return const_cast<ServerSocket*>(this)->top(); }

  int socket_ = -1;
  int os_error_ = 0;
  std::int64_t port_ = -1;
  std::string peer_;
  CertificateDemand demand_, proxy_demand_;
  TlsSession proxy_tls_, tls_;  // the second one ends first: it may be over the first
};

// `outcome` of an attempt to connect by `proxy`, as an error that names it.
TransferResult failed_by(const ProxyServer& proxy, TransferResult outcome);

}  // namespace streamer::http
