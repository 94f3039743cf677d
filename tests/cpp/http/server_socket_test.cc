#include "source/http/client/server_socket.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"

namespace streamer::http {
namespace {

// Listens at an address of this machine, until it is closed; others find the port closed.
class Listener {
 public:
  explicit Listener(const std::string& address, int port = 0, int backlog = 16) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_port = htons(static_cast<std::uint16_t>(port));
    inet_pton(AF_INET, address.c_str(), &own.sin_addr);
    bound_ = bind(socket_, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0 &&
             listen(socket_, backlog) == 0;
    socklen_t size = sizeof own;
    getsockname(socket_, reinterpret_cast<sockaddr*>(&own), &size);
    port_ = ntohs(own.sin_port);
  }
  ~Listener() { close(); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  bool bound() const { return bound_; }
  int port() const { return port_; }

 private:
  int socket_ = -1;
  int port_ = 0;
  bool bound_ = false;
};

class ServerSocketTest : public testing::Test {
 protected:
  TransferResult connect(const std::string& host, int port, std::vector<std::string> addresses,
                         int timeout_ms = 60'000) {
    return connect(socket_, port, std::move(addresses), timeout_ms, host);
  }
  TransferResult connect(ServerSocket& socket, int port, const std::vector<std::string>& addresses,
                         int timeout_ms, const std::string& host = "store.test") {
    Url url;
    url.scheme = "http";
    url.host = host;
    url.port = port;
    Attempt attempt(&transport_, &response_, nullptr);
    return socket.connect(url, {nullptr, addresses, {}}, std::chrono::milliseconds(timeout_ms),
                          &attempt);
  }
  TransferResult connect_by(const ProxyServer& proxy, int timeout_ms) {
    Url url;
    url.scheme = "http";
    url.host = "store.test";
    Attempt attempt(&transport_, &response_, nullptr);
    return socket_.connect(url, {&proxy, {}, {}}, std::chrono::milliseconds(timeout_ms), &attempt);
  }

  CancelToken cancel_;
  Transport transport_{TransportSettings(), cancel_};
  Response response_;
  ServerSocket socket_;
};

TEST_F(ServerSocketTest, ConnectsToTheFirstAddress) {
  const Listener first("127.0.0.2");
  ASSERT_TRUE(first.bound());
  const Listener second("127.0.0.3", first.port());
  ASSERT_TRUE(connect("store.test", first.port(), {"127.0.0.2", "127.0.0.3"}).status.ok());
  EXPECT_EQ(socket_.peer(), "127.0.0.2");
  EXPECT_GT(socket_.port(), 0);
  socket_.close();
  EXPECT_FALSE(socket_.open());
}

// The descriptor of the connection from `port`.
int descriptor_of(std::int64_t port) {
  for (int fd = 0; fd < 4096; ++fd) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
        own.sin_family == AF_INET && ntohs(own.sin_port) == port) {
      return fd;
    }
  }
  return -1;
}

TEST_F(ServerSocketTest, AcknowledgesWhatItHasBeforeItWaitsForMore) {
  const Listener server("127.0.0.2");
  ASSERT_TRUE(connect("store.test", server.port(), {"127.0.0.2"}).status.ok());
  const int fd = descriptor_of(socket_.port());
  ASSERT_GE(fd, 0);
  int at_once = 0;  // as after an exchange of short messages
  ASSERT_EQ(setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof at_once), 0);
  socket_.wait(/*to_write=*/false, std::chrono::milliseconds(0));
  socklen_t size = sizeof at_once;
  ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &at_once, &size), 0);
  EXPECT_EQ(at_once, 1);
}

TEST_F(ServerSocketTest, PassesOverAddressesThatRefuse) {
  const Listener last("127.0.0.5");
  const std::vector<std::string> addresses{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"};
  ASSERT_TRUE(connect("store.test", last.port(), addresses).status.ok());
  EXPECT_EQ(socket_.peer(), "127.0.0.5");
}

TEST_F(ServerSocketTest, DoesNotWaitForASilentAddress) {
  // Nobody accepts: what is above the queue is not answered.
  const Listener silent("127.0.0.2", 0, 0);
  ASSERT_TRUE(silent.bound());
  const Listener other("127.0.0.3", silent.port());
  ASSERT_TRUE(other.bound());
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(connect("store.test", silent.port(), {"127.0.0.2", "127.0.0.3"}).status.ok());
    if (socket_.peer() == "127.0.0.3") return;
  }
  FAIL() << "the queue of a listener has no end on this system";
}

TEST_F(ServerSocketTest, DoesNotWaitForManySilentAddresses) {
  const std::vector<std::string> addresses{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"};
  const Listener last("127.0.0.5");
  std::vector<std::unique_ptr<Listener>> silent;
  std::vector<std::unique_ptr<ServerSocket>> queued;  // until nobody else is let in
  for (std::size_t i = 0; i + 1 < addresses.size(); ++i) {
    silent.push_back(std::make_unique<Listener>(addresses[i], last.port(), 0));
    ASSERT_TRUE(silent.back()->bound());
    for (int n = 0; n < 8; ++n) {
      queued.push_back(std::make_unique<ServerSocket>());
      if (!connect(*queued.back(), last.port(), {addresses[i]}, 50).status.ok()) break;
    }
    ASSERT_FALSE(queued.back()->open()) << "the queue of a listener has no end on this system";
  }
  ASSERT_TRUE(connect("store.test", last.port(), addresses, 240'000).status.ok());
  EXPECT_EQ(socket_.peer(), "127.0.0.5");
}

TEST_F(ServerSocketTest, ARefusalIsTheErrorOfTheSystem) {
  Listener closed("127.0.0.2");
  closed.close();
  const TransferResult outcome = connect("store.test", closed.port(), {"127.0.0.2"});
  EXPECT_EQ(outcome.status.code(), Code::kNetwork);
  EXPECT_EQ(outcome.status.detail().os_error, ECONNREFUSED);
  EXPECT_TRUE(outcome.refused);
  EXPECT_TRUE(outcome.unreachable);
  EXPECT_TRUE(outcome.retry);
  EXPECT_NE(outcome.status.detail().message.find("store.test port"), std::string::npos);
}

TEST_F(ServerSocketTest, KnowsLocalhostAndNumbersWithoutAResolver) {
  const Listener server("127.0.0.1");
  for (const char* host : {"localhost", "a.localhost", "127.0.0.1"}) {
    ASSERT_TRUE(connect(host, server.port(), {}).status.ok()) << host;
    EXPECT_EQ(socket_.peer(), "127.0.0.1");
  }
}

TEST_F(ServerSocketTest, DoesNotWaitForASilentProxy) {
  const Listener server("127.0.0.1");
  const std::string at = "127.0.0.1:" + std::to_string(server.port());
  for (const char* scheme : {"socks4a://me:hidden@", "socks5h://me:hidden@"}) {
    const auto proxy = parse_proxy(scheme + at);
    ASSERT_TRUE(proxy.ok());
    TransferResult outcome = connect_by(*proxy, 1'000);
    EXPECT_EQ(outcome.status.code(), Code::kTimeout);
    EXPECT_TRUE(outcome.retry);
    EXPECT_TRUE(outcome.unreachable);
    EXPECT_EQ(outcome.status.detail().message,
              "no connection by the proxy " + at + ": no tunnel to store.test:80 in time");
    EXPECT_FALSE(socket_.open());
  }
  cancel_.cancel();
  const auto proxy = parse_proxy("socks5h://" + at);
  EXPECT_EQ(connect_by(*proxy, 240'000).status.code(), Code::kCancelled);
}

TEST_F(ServerSocketTest, EndsWhenItsStreamDoes) {
  const Listener server("127.0.0.1", 0, 0);
  cancel_.cancel();
  // Until one has to wait for the server, which accepts nobody.
  for (int i = 0; i < 8; ++i) {
    const TransferResult outcome = connect("127.0.0.1", server.port(), {});
    if (outcome.status.ok()) continue;
    EXPECT_EQ(outcome.status.code(), Code::kCancelled);
    return;
  }
  FAIL() << "the queue of a listener has no end on this system";
}

}  // namespace
}  // namespace streamer::http
