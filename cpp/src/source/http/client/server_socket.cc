#include "source/http/client/server_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "base/system.h"
#include "base/text.h"
#include "source/http/client/socks.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

// Until another address is tried at the same time.
constexpr milliseconds kHeadStart{200};
constexpr int kKeepAlive = 60;  // seconds
constexpr std::size_t kTunnelHeader = 64 << 10;
constexpr std::size_t kSocksPart = 64;
constexpr const char* kCheckAddress = "Check the endpoint's address";

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

int port_of(const Url& url) { return url.port != 0 ? url.port : url.scheme == "https" ? 443 : 80; }

bool is_v6(const std::string& address) { return address.find(':') != std::string::npos; }

// The host of a URL as the system's functions know it.
std::string bare_host(const Url& url) {
  std::string host = url.host;
  if (!host.starts_with('[')) return host;
  host = host.substr(1, host.size() - 2);
  const std::size_t zone = host.find("%25");
  if (zone != std::string::npos) host.erase(zone + 1, 2);
  return host;
}

// The second address is of the other family, if there is one: one of them may not work here.
std::vector<std::string> in_turn(std::vector<std::string> addresses) {
  const auto other = std::find_if(addresses.begin(), addresses.end(), [&](const auto& address) {
    return is_v6(address) != is_v6(addresses.front());
  });
  if (other != addresses.end()) std::rotate(addresses.begin() + 1, other, other + 1);
  return addresses;
}

// The address of a socket; 0: `address` is none. Only zones and odd spellings need the resolver.
socklen_t fill(const std::string& address, int port, sockaddr_storage* to) {
  auto* const v4 = reinterpret_cast<sockaddr_in*>(to);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(to);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<std::uint16_t>(port));
    return sizeof *v4;
  }
  if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<std::uint16_t>(port));
    return sizeof *v6;
  }
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return 0;
  const AddressList list(found, &freeaddrinfo);
  std::memcpy(to, list->ai_addr, list->ai_addrlen);
  return list->ai_addrlen;
}

// An attempt to reach one address.
class Reaching {
 public:
  // Begins it; if that fails at once, error() is not 0.
  Reaching(std::string address, int port) : address_(std::move(address)) {
    sockaddr_storage to{};
    const socklen_t size = fill(address_, port, &to);
    if (size == 0) {
      error_ = EADDRNOTAVAIL;
      return;
    }
    socket_ = ::socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (socket_ < 0) {
      error_ = errno;
      return;
    }
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(socket_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(socket_, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepAlive, sizeof kKeepAlive);
    setsockopt(socket_, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepAlive, sizeof kKeepAlive);
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&to), size) != 0) error_ = errno;
    if (error_ == EINPROGRESS || error_ == EINTR) {
      error_ = 0;
      pending_ = true;
    }
  }
  ~Reaching() {
    if (socket_ >= 0) ::close(socket_);
  }
  Reaching(const Reaching&) = delete;
  Reaching& operator=(const Reaching&) = delete;

  // After the socket can be written.
  void look() {
    socklen_t size = sizeof error_;
    if (getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error_, &size) != 0) error_ = errno;
    pending_ = false;
  }
  bool pending() const { return pending_; }
  int error() const { return error_; }
  int socket() const { return socket_; }
  int take() { return std::exchange(socket_, -1); }
  const std::string& address() const { return address_; }

 private:
  const std::string address_;
  int socket_ = -1;
  int error_ = 0;
  bool pending_ = false;
};

bool short_of_descriptors(int error) { return error == EMFILE || error == ENFILE; }

TransferResult unreachable(const Url& url, int port, int error) {
  const std::string where = bare_host(url) + " port " + std::to_string(port);
  if (error == ETIMEDOUT) {
    return {.status = Status::error(Code::kTimeout, "Failed to connect to " + where + " in time"),
            .retry = true,
            .unreachable = true};
  }
  const bool none = short_of_descriptors(error);
  return {
      .status = Status::error(none ? Code::kIo : Code::kNetwork, "Failed to connect to " + where)
                    .with_errno(error)
                    .with_hint(none ? kRaiseDescriptorLimit : kCheckAddress),
      .retry = true,
      .unreachable = true,
      .refused = error == ECONNREFUSED};
}

// The end of an attempt from outside; ok: there was none.
TransferResult ended_from_outside(Attempt* attempt) {
  if (Status status = attempt->transport->interrupted(); !status.ok()) {
    attempt->abort = status;
    return {.status = std::move(status)};
  }
  if (attempt->aborted()) {
    return {.status = Status::error(Code::kTimeout, kStragglerMessage),
            .retry = true,
            .unreachable = true};
  }
  return {};
}

milliseconds until(Clock::time_point end) {
  const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
  return std::clamp(left, milliseconds(0), kTick);
}

TransferResult unusable(std::string message, Code code, int os_error = 0) {
  return {.status = Status::error(code, std::move(message)).with_errno(os_error),
          .retry = true,
          .unreachable = true};
}

// The status of a response to CONNECT; 0: it is not HTTP.
int tunnel_status(std::string_view header) {
  if (!header.starts_with("HTTP/1.")) return 0;
  const std::size_t space = header.find(' ');
  const std::string_view digits = header.substr(std::min(space + 1, header.size()), 3);
  return static_cast<int>(parse_number(digits).value_or(0));
}

TransferResult tunnel_result(const ProxyServer& proxy, int status, bool more) {
  if (status < 100) return unusable("the proxy's response is not HTTP", Code::kNetwork);
  if (status >= 200 && status < 300) {
    // A server of TLS sends nothing first.
    return more ? unusable("the proxy sent bytes before the server's", Code::kNetwork)
                : TransferResult();
  }
  TransferResult refused =
      unusable("CONNECT tunnel failed, response " + std::to_string(status), Code::kNetwork);
  refused.login_refused = status == 407;
  refused.retry = !refused.login_refused;
  const std::string hint = refused.login_refused
                               ? "Check the user and the password in " + proxy.variable
                               : "The proxy of " + proxy.variable + " refuses";
  refused.status =
      std::move(refused.status).with_hint(hint + "; NO_PROXY names hosts without a proxy");
  return refused;
}

}  // namespace

TransferResult failed_by(const ProxyServer& proxy, TransferResult outcome) {
  if (!outcome.unreachable) return outcome;
  const ErrorDetail& detail = outcome.status.detail();
  const std::string hint =
      detail.hint.empty() || detail.hint == kCheckAddress ? proxy.to_check() : detail.hint;
  outcome.status = Status::error(outcome.status.code(), "no connection by the proxy " +
                                                            proxy.shown() + ": " + detail.message)
                       .with_errno(detail.os_error)
                       .with_hint(hint);
  return outcome;
}

TransferResult ServerSocket::connect(const Url& url, const Route& route, milliseconds timeout,
                                     Attempt* attempt) {
  close();
  demand_.expect(url.origin());
  if (route.proxy != nullptr) proxy_demand_.expect(route.proxy->url.origin());
  const Clock::time_point end = Clock::now() + timeout;
  TransferResult outcome = route.proxy != nullptr ? reach_proxy(route, url, end, attempt)
                                                  : reach(url, route.addresses, end, attempt);
  if (outcome.status.ok() && url.scheme == "https") {
    outcome = secure(&tls_, url, &demand_, end, attempt);
  }
  if (!outcome.status.ok()) close();
  return outcome;
}

TransferResult ServerSocket::reach_proxy(const Route& route, const Url& url, Clock::time_point end,
                                         Attempt* attempt) {
  const ProxyServer& proxy = *route.proxy;
  TransferResult outcome = reach(proxy.url, route.addresses, end, attempt);
  if (outcome.status.ok() && proxy.url.scheme == "https") {
    outcome = secure(&proxy_tls_, proxy.url, &proxy_demand_, end, attempt);
  }
  if (outcome.status.ok() && proxy.socks != 0) {
    outcome = tunnel_by_socks(proxy, url, route.target, end, attempt);
  } else if (outcome.status.ok() && url.scheme == "https") {
    outcome = tunnel(proxy, url, end, attempt);
  }
  const bool ended = outcome.status.ok() || attempt->aborted();
  return ended ? outcome : failed_by(proxy, std::move(outcome));
}

TransferResult ServerSocket::reach(const Url& url, const std::vector<std::string>& addresses,
                                   Clock::time_point end, Attempt* attempt) {
  const int port = port_of(url);
  std::vector<std::string> candidates = addresses;
  if (candidates.empty() && url.host_is_local()) candidates = {"::1", "127.0.0.1"};
  if (candidates.empty() && url.host_is_ip()) candidates = {bare_host(url)};
  if (candidates.empty()) {  // it was not resolved
    const int error = Addresses::system_resolver(bare_host(url), &candidates);
    if (error != 0) {
      return {.status = Status::error(Code::kNetwork, "Could not resolve host: " + url.host + " (" +
                                                          gai_strerror(error) + ")")
                            .with_hint(kCheckAddress),
              .retry = true,
              .unreachable = true};
    }
  }
  candidates = in_turn(std::move(candidates));
  std::vector<std::unique_ptr<Reaching>> running;
  std::vector<pollfd> waiting;
  std::size_t next = 0;
  int last_error = ETIMEDOUT;
  Clock::time_point turn = Clock::now();
  for (;;) {
    if (next < candidates.size() && Clock::now() >= turn) {
      running.push_back(std::make_unique<Reaching>(candidates[next++], port));
      turn = Clock::now() + kHeadStart;
    }
    waiting.clear();
    for (auto& one : running) {
      if (one->pending()) {
        waiting.push_back({one->socket(), POLLOUT, 0});
        continue;
      }
      if (one->error() == 0) {
        peer_ = one->address();
        socket_ = one->take();
        sockaddr_storage own{};
        socklen_t size = sizeof own;
        port_ = -1;
        if (getsockname(socket_, reinterpret_cast<sockaddr*>(&own), &size) == 0) {
          port_ = ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&own)->sin6_port
                                                  : reinterpret_cast<sockaddr_in*>(&own)->sin_port);
        }
        return {};
      }
      last_error = one->error();
      turn = Clock::now();
      one.reset();
    }
    std::erase(running, nullptr);
    if (running.empty()) {
      const bool last = next == candidates.size() || short_of_descriptors(last_error);
      if (last) return unreachable(url, port, last_error);
      continue;  // an address has failed at once
    }
    if (TransferResult ended = ended_from_outside(attempt); !ended.status.ok()) return ended;
    if (Clock::now() >= end) return unreachable(url, port, ETIMEDOUT);
    milliseconds time = until(end);
    if (next < candidates.size()) time = std::min(time, until(turn));
    if (poll(waiting.data(), waiting.size(), static_cast<int>(time.count())) <= 0) continue;
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) running[i]->look();
    }
  }
}

TransferResult ServerSocket::secure(TlsSession* session, const Url& url, CertificateDemand* demand,
                                    Clock::time_point end, Attempt* attempt) {
  TlsSession* const below = session != &proxy_tls_ && proxy_tls_.active() ? &proxy_tls_ : nullptr;
  TransferResult outcome =
      session->begin(socket_, url, attempt->transport->settings.trust, demand, below);
  if (!outcome.status.ok()) return outcome;
  for (;;) {
    const Io io = session->handshake();
    if (io == Io::kDone) return {};
    if (io == Io::kFailed) {
      return demand->unanswered(explained(session->refusal(), /*connected=*/false, *demand));
    }
    if (TransferResult ended = ended_from_outside(attempt); !ended.status.ok()) return ended;
    if (Clock::now() >= end) {
      return {
          .status = Status::error(Code::kTimeout, "no TLS connection to " + url.host + " in time"),
          .retry = true,
          .unreachable = true};
    }
    wait(io == Io::kWaitsToWrite, until(end));
  }
}

TransferResult ServerSocket::tunnel(const ProxyServer& proxy, const Url& url, Clock::time_point end,
                                    Attempt* attempt) {
  const std::string to = url.host + ":" + std::to_string(port_of(url));
  std::string text = "CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n";
  if (!proxy.authorization.empty()) text += "Proxy-Authorization: " + proxy.authorization + "\r\n";
  text += "User-Agent: " + attempt->transport->settings.user_agent + "\r\n\r\n";
  std::string header;
  for (std::size_t sent = 0;;) {
    std::size_t moved = 0;
    Io io = Io::kDone;
    if (sent < text.size()) {
      io = send(text.data() + sent, text.size() - sent, &moved);
      sent += moved;
    } else {
      std::array<char, 1024> part;  // NOLINT: filled before it is read
      io = receive(part.data(), part.size(), &moved);
      header.append(part.data(), moved);
      if (io == Io::kDone && moved == 0) {
        return unusable("the proxy closed the connection", Code::kNetwork);
      }
      if (header.size() > kTunnelHeader) {
        return unusable("the header of the proxy's response is too long", Code::kNetwork);
      }
      for (std::size_t end_of_header = 0;
           (end_of_header = header.find("\r\n\r\n")) != std::string::npos;) {
        const std::size_t size = end_of_header + 4;
        const int status = tunnel_status(header);
        if (status < 100 || status > 199) return tunnel_result(proxy, status, size < header.size());
        header.erase(0, size);  // the final response follows
      }
    }
    if (TransferResult ended = tunnel_goes_on(io, to, end, attempt); !ended.status.ok()) {
      return ended;
    }
  }
}

TransferResult ServerSocket::tunnel_by_socks(const ProxyServer& proxy, const Url& url,
                                             const std::string& target, Clock::time_point end,
                                             Attempt* attempt) {
  std::string host = target.empty() ? bare_host(url) : target;
  if (!proxy.resolves && url.host_is_local()) host = "127.0.0.1";
  SocksHandshake handshake(proxy, host, port_of(url));
  const std::string to = url.host + ":" + std::to_string(port_of(url));
  while (handshake.status().ok() && !handshake.done()) {
    std::size_t moved = 0;
    Io io = Io::kDone;
    if (const std::string_view text = handshake.to_send(); !text.empty()) {
      io = send(text.data(), text.size(), &moved);
      handshake.sent(moved);
    } else {
      std::array<char, kSocksPart> part;  // NOLINT: filled before it is read
      io = receive(part.data(), std::min(part.size(), handshake.missing()), &moved);
      if (io == Io::kDone && moved == 0) {
        return unusable("the proxy closed the connection", Code::kNetwork);
      }
      handshake.received({part.data(), moved});
    }
    if (TransferResult ended = tunnel_goes_on(io, to, end, attempt); !ended.status.ok()) {
      return ended;
    }
  }
  if (handshake.status().ok()) return {};
  return {.status = handshake.status(),
          .retry = !handshake.final(),
          .unreachable = true,
          .refused = handshake.refused(),
          .login_refused = handshake.login_refused()};
}

TransferResult ServerSocket::tunnel_goes_on(Io io, const std::string& server, Clock::time_point end,
                                            Attempt* attempt) {
  if (io == Io::kFailed) return unusable("the connection was lost", Code::kNetwork, os_error_);
  if (TransferResult ended = ended_from_outside(attempt); !ended.status.ok()) return ended;
  if (Clock::now() >= end) return unusable("no tunnel to " + server + " in time", Code::kTimeout);
  if (io != Io::kDone) wait(io == Io::kWaitsToWrite, until(end));
  return {};
}

TransferResult ServerSocket::explained(TransferResult outcome, bool connected,
                                       const CertificateDemand& demand) {
  std::string message = outcome.status.detail().message;
  std::string hint = outcome.status.detail().hint;
  if (!demand.explain(connected, &message, &hint)) return outcome;
  outcome.retry = false;
  outcome.status =
      Status::error(outcome.status.code(), std::move(message)).with_hint(std::move(hint));
  return outcome;
}

void ServerSocket::close() {
  tls_.end();
  proxy_tls_.end();
  if (socket_ >= 0) ::close(std::exchange(socket_, -1));
}

Io ServerSocket::send(const char* data, std::size_t size, std::size_t* moved) {
  if (TlsSession* const tls = top()) {
    const Io io = tls->send(data, size, moved);
    os_error_ = errno;
    return io;
  }
  const ssize_t sent = ::send(socket_, data, size, MSG_NOSIGNAL);
  os_error_ = sent < 0 ? errno : 0;
  *moved = static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
  if (sent >= 0) return Io::kDone;
  return os_error_ == EAGAIN || os_error_ == EINTR ? Io::kWaitsToWrite : Io::kFailed;
}

Io ServerSocket::receive(char* data, std::size_t size, std::size_t* moved) {
  if (TlsSession* const tls = top()) {
    const Io io = tls->receive(data, size, moved);
    os_error_ = errno;
    return io;
  }
  const ssize_t received = ::recv(socket_, data, size, 0);
  os_error_ = received < 0 ? errno : 0;
  *moved = static_cast<std::size_t>(std::max<ssize_t>(received, 0));
  if (received >= 0) return Io::kDone;
  return os_error_ == EAGAIN || os_error_ == EINTR ? Io::kWaitsToRead : Io::kFailed;
}

TransferResult ServerSocket::failure() const {
  const TlsSession* const tls = top();
  const std::string why = tls != nullptr ? "TLS: " + tls->error() : "the connection was lost";
  return explained(
      {.status = Status::error(Code::kNetwork, why).with_errno(os_error_), .retry = true},
      /*connected=*/true, tls == &proxy_tls_ ? proxy_demand_ : demand_);
}

void ServerSocket::wait(bool to_write, milliseconds time) const {
  if (!to_write) {
    if (tls_.stopped_early()) return;
    // A server without TCP_NODELAY sends the last part of a response when the client has
    // acknowledged the parts before it. A client that sends soon after it has received delays that
    // by 40 ms.
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
  }
  pollfd one{socket_, static_cast<short>(to_write ? POLLOUT : POLLIN), 0};
  poll(&one, 1, static_cast<int>(time.count()));
}

void ServerSocket::wake_at(int bytes) {
  setsockopt(socket_, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

}  // namespace streamer::http
