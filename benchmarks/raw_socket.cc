// The network's limit: threads that send ranged GETs over plain HTTP and recv() the bodies into one
// reused buffer each, and nothing else.
//
//   raw_socket THREADS CHUNK_BYTES HOST PORT PATH SIZE [PATH SIZE]...
//
// Prints one line of JSON: {"bytes": ..., "seconds": ..., "cpu_seconds": ...}
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Range {
  std::string path;
  std::uint64_t offset;
  std::uint64_t size;
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "raw_socket: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int dial(const sockaddr_in& address) {
  const int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail("connect");
  }
  return socket_;
}

// Reads one range. The body begins at the buffer's front unless it comes with the header.
void get(int socket_, const std::string& host, const Range& range, std::vector<char>* buffer) {
  const std::string request = "GET " + range.path + " HTTP/1.1\r\nHost: " + host +
                              "\r\nRange: bytes=" + std::to_string(range.offset) + "-" +
                              std::to_string(range.offset + range.size - 1) + "\r\n\r\n";
  if (send(socket_, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    fail("send");
  }
  std::size_t got = 0;
  std::size_t body = 0;
  while (body == 0) {
    const ssize_t part = recv(socket_, buffer->data() + got, 65536 - got, 0);
    if (part <= 0) fail("recv of the header");
    got += static_cast<std::size_t>(part);
    const std::string_view text(buffer->data(), got);
    const std::size_t end = text.find("\r\n\r\n");
    if (end == std::string_view::npos) continue;
    if (!text.starts_with("HTTP/1.1 206")) fail("not 206");
    body = end + 4;
  }
  std::uint64_t left = range.size - (got - body);
  while (left > 0) {
    const ssize_t part =
        recv(socket_, buffer->data(), std::min<std::uint64_t>(left, buffer->size()), 0);
    if (part <= 0) fail("recv");
    left -= static_cast<std::uint64_t>(part);
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 7 || count % 2 == 0) {
    std::fprintf(stderr, "usage: raw_socket THREADS CHUNK HOST PORT PATH SIZE [PATH SIZE]...\n");
    return 2;
  }
  const int threads = std::atoi(words[1]);
  const std::uint64_t chunk = std::strtoull(words[2], nullptr, 10);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(words[4])));
  if (inet_pton(AF_INET, words[3], &address.sin_addr) != 1) fail("the host is no IPv4 address");
  std::vector<Range> ranges;
  std::uint64_t total = 0;
  for (int i = 5; i + 1 < count; i += 2) {
    const std::uint64_t size = std::strtoull(words[i + 1], nullptr, 10);
    for (std::uint64_t at = 0; at < size; at += chunk) {
      ranges.push_back({words[i], at, std::min(chunk, size - at)});
    }
    total += size;
  }
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> workers;
  workers.reserve(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      std::vector<char> buffer(std::max<std::uint64_t>(chunk, 65536));
      const int socket_ = dial(address);
      for (std::size_t mine; (mine = next++) < ranges.size();) {
        get(socket_, words[3], ranges[mine], &buffer);
      }
      close(socket_);
    });
  }
  for (std::thread& worker : workers) worker.join();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
              static_cast<unsigned long long>(total), seconds, cpu_seconds() - cpu);
}
