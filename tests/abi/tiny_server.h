// An HTTP server of one request per connection, whose responses a test writes.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

class TinyServer {
 public:
  // From the head of a request to the whole response, which closes the connection.
  using Answer = std::function<std::string(const std::string& request)>;

  // One connection at a time, unless `concurrent`: then `answer` is called by several threads.
  explicit TinyServer(Answer answer, bool concurrent = false)
      : answer_(std::move(answer)),
        concurrent_(concurrent),
        listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~TinyServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  TinyServer(const TinyServer&) = delete;
  TinyServer& operator=(const TinyServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  void serve() const {
    std::vector<std::thread> threads;
    for (;;) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) break;
      const auto serve_one = [this, connection] {
        answer(connection);
        close(connection);
      };
      if (concurrent_) {
        threads.emplace_back(serve_one);
      } else {
        serve_one();
      }
    }
    for (std::thread& thread : threads) thread.join();
  }

  void answer(int connection) const {
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      request.append(buffer, static_cast<size_t>(got));
    }
    const std::string response = answer_(request);
    (void)!send(connection, response.data(), response.size(), MSG_NOSIGNAL);
  }

  const Answer answer_;
  const bool concurrent_;
  const int listener_;
  int port_ = 0;
  std::thread thread_;
};
