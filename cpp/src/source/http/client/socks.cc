#include "source/http/client/socks.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

namespace streamer::http {
namespace {

constexpr std::size_t kLongest = 255;  // of a name, a user and a password: one byte tells the size
constexpr unsigned kNoLogin = 0, kLogin = 2, kNoMethod = 0xFF;
constexpr unsigned kGranted4 = 90, kGranted5 = 0;
constexpr unsigned kConnectionRefused = 5;
constexpr char kIpv4 = 1, kName = 3, kIpv6 = 4;
constexpr const char* kCheckServer =
    "Check the endpoint's address, and what the proxy may connect to";

std::string sized(std::string_view text) {
  return std::string(1, static_cast<char>(text.size())) + std::string(text);
}

const char* meaning4(unsigned code) {
  switch (code) {
    case 91: return "refused or failed";
    case 92: return "no identd at this machine";
    case 93: return "identd names another user";
    default: return "unknown";
  }
}

const char* meaning5(unsigned code) {
  switch (code) {
    case 1: return "general failure";
    case 2: return "not allowed";
    case 3: return "network unreachable";
    case 4: return "host unreachable";
    case kConnectionRefused: return "connection refused";
    case 6: return "TTL expired";
    case 7: return "command not supported";
    case 8: return "address type not supported";
    default: return "unknown";
  }
}

std::string login_to_check(const ProxyServer& proxy) {
  return "Check the user and the password in " + proxy.variable;
}

Status invalid(std::string message, std::string hint) {
  return Status::error(Code::kInvalid, std::move(message)).with_hint(std::move(hint));
}

}  // namespace

SocksHandshake::SocksHandshake(const ProxyServer& proxy, const std::string& host, int port)
    : proxy_(proxy), port_{static_cast<char>(port >> 8), static_cast<char>(port & 0xFF)} {
  const bool too_long =
      host.size() > kLongest || proxy.user.size() > kLongest || proxy.password.size() > kLongest;
  if (too_long) {
    final_ = true;
    status_ = invalid("the host, the user or the password is too long for SOCKS",
                      "Each may have 255 bytes");
  } else if (proxy.socks == 4) {
    connect4(host);
  } else {
    if (std::string v4 = address_bytes(AF_INET, host); !v4.empty()) {
      target_ = kIpv4 + v4;
    } else if (std::string v6 = address_bytes(AF_INET6, host); !v6.empty()) {
      target_ = kIpv6 + v6;
    } else {
      target_ = kName + sized(host);
    }
    const bool login = !proxy.user.empty() || !proxy.password.empty();
    std::string methods(1, static_cast<char>(kNoLogin));
    if (login) methods += static_cast<char>(kLogin);
    say("\x05" + sized(methods), State::kMethod, 2);
  }
}

void SocksHandshake::say(std::string text, State state, std::size_t expected) {
  text_ = std::move(text);
  sent_ = 0;
  reply_.clear();
  expected_ = expected;
  state_ = state;
}

void SocksHandshake::fail(std::string message, std::string hint) {
  status_ = Status::error(Code::kNetwork, std::move(message)).with_hint(std::move(hint));
}

void SocksHandshake::not_socks() {
  fail("the proxy's reply is not SOCKS" + std::to_string(proxy_.socks));
}

void SocksHandshake::received(std::string_view bytes) {
  reply_ += bytes.substr(0, missing());
  if (reply_.empty() || !status_.ok()) return;
  switch (state_) {
    case State::kConnect4: return read_connect4();
    case State::kMethod: return read_method();
    case State::kLogin: return read_login();
    case State::kConnect5: return read_connect5();
    case State::kDone: return;
  }
}

// An address whose first three bytes are 0 announces a name (SOCKS4a).
void SocksHandshake::connect4(const std::string& host) {
  if (proxy_.user.find('\0') != std::string::npos) {
    final_ = true;
    status_ = invalid("the user of a SOCKS4 proxy contains a zero byte", login_to_check(proxy_));
    return;
  }
  if (host.find(':') != std::string::npos) {
    final_ = true;
    status_ = invalid("SOCKS4 has no IPv6 addresses", "Use socks5:// if the proxy has it");
    return;
  }
  const std::string end(1, '\0');
  std::string address = address_bytes(AF_INET, host);
  std::string name;
  if (address.empty()) {
    address = std::string("\0\0\0\x01", 4);
    name = host + end;
  }
  say("\x04\x01" + port_ + address + proxy_.user + end + name, State::kConnect4, 8);
}

void SocksHandshake::read_connect4() {
  if (at(0) != 0) return not_socks();
  if (reply_.size() >= 2 && at(1) != kGranted4) {
    return fail("the SOCKS proxy does not connect, reply " + std::to_string(at(1)) + " (" +
                    meaning4(at(1)) + ")",
                kCheckServer);
  }
  if (missing() == 0) state_ = State::kDone;
}

void SocksHandshake::read_method() {
  if (at(0) != 5) return not_socks();
  if (missing() > 0) return;
  const unsigned method = at(1);
  const bool login = !proxy_.user.empty() || !proxy_.password.empty();
  if (method == kNoLogin) return connect5();
  if (method == kLogin && login) {
    return say("\x01" + sized(proxy_.user) + sized(proxy_.password), State::kLogin, 2);
  }
  final_ = login_refused_ = true;
  if (method == kNoMethod && !login) {
    return fail(
        "the SOCKS proxy demands a user and a password",
        "Name them in " + proxy_.variable + " before the host, as in USER:PASSWORD@HOST:PORT");
  }
  fail("the SOCKS proxy demands another way to authenticate",
       "It should accept clients with a user and a password, or without");
}

void SocksHandshake::read_login() {
  // Some proxies reply with the version of SOCKS.
  if (at(0) != 1 && at(0) != 5) return not_socks();
  if (missing() > 0) return;
  if (at(1) != 0) {
    final_ = login_refused_ = true;
    return fail("the SOCKS proxy does not accept the user and the password",
                login_to_check(proxy_));
  }
  connect5();
}

void SocksHandshake::connect5() {
  say(std::string("\x05\x01\x00", 3) + target_ + port_, State::kConnect5, 4);
}

void SocksHandshake::read_connect5() {
  constexpr std::size_t kHead = 4, kPort = 2;
  if (at(0) != 5) return not_socks();
  if (reply_.size() >= 2 && at(1) != kGranted5) {
    refused_ = at(1) == kConnectionRefused;
    return fail("the SOCKS proxy does not connect, reply " + std::to_string(at(1)) + " (" +
                    meaning5(at(1)) + ")",
                kCheckServer);
  }
  if (reply_.size() < kHead) return;
  switch (reply_[3]) {
    case kIpv4: expected_ = kHead + 4 + kPort; break;
    case kIpv6: expected_ = kHead + 16 + kPort; break;
    case kName: expected_ = kHead + 1 + (reply_.size() > kHead ? at(kHead) + kPort : 0); break;
    default: return not_socks();
  }
  if (missing() == 0) state_ = State::kDone;
}

}  // namespace streamer::http
