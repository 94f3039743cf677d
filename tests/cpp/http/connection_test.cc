#include "source/http/client/connection.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#include "base/cancel.h"

namespace streamer::http {
namespace {

// A proxy that responds to everything with two bytes.
class Proxy {
 public:
  Proxy() {
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof own;
    auto* const address = reinterpret_cast<sockaddr*>(&own);
    if (bind(socket_, address, size) == 0 && listen(socket_, 16) == 0 &&
        getsockname(socket_, address, &size) == 0) {
      port_ = ntohs(own.sin_port);
    }
    thread_ = std::thread([this] { serve(); });
  }
  ~Proxy() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  int port() const { return port_; }

 private:
  void serve() const {
    for (int client = -1; (client = accept(socket_, nullptr, nullptr)) >= 0;) {
      std::string header;
      char byte = 0;
      while (!header.ends_with("\r\n\r\n") && recv(client, &byte, 1, 0) == 1) header += byte;
      constexpr std::string_view kResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
      send(client, kResponse.data(), kResponse.size(), MSG_NOSIGNAL);
      close(client);
    }
  }

  const int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int port_ = 0;
  std::thread thread_;
};

TransportSettings settings() {
  TransportSettings made;
  made.deadline = Clock::now() + std::chrono::seconds(30);
  return made;
}

TEST(Connection, ALoginThatEndsForLackOfMemoryIsTriedByTheNext) {
  const Proxy proxy;
  setenv("http_proxy", ("http://user:word@127.0.0.1:" + std::to_string(proxy.port())).c_str(), 1);
  unsetenv("no_proxy");
  unsetenv("NO_PROXY");
  CancelToken cancel;
  Transport transport(settings(), cancel);
  Request request;
  request.url = "http://store.test/object";
  Response response;
  BodySink sink;
  sink.accept = [](const Response&) -> Status { throw std::bad_alloc(); };
  Connection first(transport);
  EXPECT_THROW((void)first.perform(request, &response, &sink, 0), std::bad_alloc);
  Connection second(transport);
  BodySink other;
  const TransferResult outcome = second.perform(request, &response, &other, 0);
  unsetenv("http_proxy");
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.to_string();
  EXPECT_EQ(response.status, 200);
}

}  // namespace
}  // namespace streamer::http
