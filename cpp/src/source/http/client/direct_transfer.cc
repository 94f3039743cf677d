#include "source/http/client/direct_transfer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace streamer::http {
namespace {

// Of the bytes that are copied: the header, and what comes with it.
constexpr std::size_t kHeaderRead = 4 << 10;
constexpr std::uint64_t kLowWater = 256 << 10;
constexpr std::uint64_t kRecord = 32 << 10;  // more than one of TLS has
constexpr std::size_t kScratch = 64 << 10;
constexpr std::chrono::milliseconds kWatchedTick{20};

bool wait_for(curl_socket_t socket, short what, std::chrono::milliseconds time) {
  pollfd one{socket, what, 0};
  return poll(&one, 1, static_cast<int>(time.count())) > 0;
}

TransferResult network(Code code, std::string message, int os_error = 0) {
  return {Status::error(code, std::move(message)).with_errno(os_error), true, false};
}

}  // namespace

struct DirectTransfer::Channel {
  CurlHandle handle;
  std::string origin;
  curl_socket_t socket = CURL_SOCKET_BAD;
  std::int64_t port = -1;  // local
  Clock::time_point used;
  int low_water = 1;  // bytes that wake who waits for the socket

  bool open() const { return socket != CURL_SOCKET_BAD; }
  void close() {
    handle.end();
    socket = CURL_SOCKET_BAD;
    low_water = 1;
  }
  // Fewer, larger reads, where so many bytes of the body are missing. Of what is still to come by
  // way of TLS, the front of one record may have been read.
  void wake_at(std::uint64_t missing) {
    if (origin.starts_with("https")) missing -= std::min(missing, kRecord);
    const int wanted = static_cast<int>(std::clamp<std::uint64_t>(missing, 1, kLowWater));
    if (wanted == low_water) return;
    setsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
    low_water = wanted;
  }
  // An idle connection with something to read is closed, or has bytes that nobody asked for.
  bool idle() const { return open() && !wait_for(socket, POLLIN, {}); }
};

DirectTransfer::DirectTransfer() = default;
DirectTransfer::~DirectTransfer() = default;

bool DirectTransfer::serves(const Request& request, const Attempt& attempt) {
  return request.method == "GET" && attempt.body != nullptr && proxy_for(request).empty();
}

DirectTransfer::Channel& DirectTransfer::channel_to(const std::string& origin) {
  std::unique_ptr<Channel>* oldest = nullptr;
  for (auto& channel : channels_) {
    if (channel && channel->origin == origin) return *channel;
    if (oldest == nullptr || !channel || (*oldest && channel->used < (*oldest)->used))
      oldest = &channel;
  }
  *oldest = std::make_unique<Channel>();
  (*oldest)->origin = origin;
  return **oldest;
}

TransferResult DirectTransfer::connect(Channel* channel, const Request& request, const Url& url,
                                       Attempt* attempt) {
  if (const Status& status = channel->handle.status(); !status.ok()) return {status};
  channel->close();
  CurlHandle& handle = channel->handle;
  handle.prepare(request, attempt->transport->settings);
  handle.set(CURLOPT_URL, (url.origin() + "/").c_str());
  handle.set(CURLOPT_CONNECT_ONLY, 1L);
  handle.read_ahead();
  const CURLcode result = handle.run(attempt);
  if (result != CURLE_OK) {
    long os_error = 0;
    curl_easy_getinfo(handle.easy(), CURLINFO_OS_ERRNO, &os_error);
    TransferResult outcome =
        handle.outcome(result, /*connected=*/false, static_cast<int>(os_error));
    channel->close();
    return outcome;
  }
  const char* own = nullptr;
  const char* peer = nullptr;
  curl_easy_getinfo(handle.easy(), CURLINFO_LOCAL_IP, &own);
  curl_easy_getinfo(handle.easy(), CURLINFO_PRIMARY_IP, &peer);
  attempt->transport->same_host = own != nullptr && peer != nullptr && std::strcmp(own, peer) == 0;
  long port = -1;
  curl_easy_getinfo(handle.easy(), CURLINFO_ACTIVESOCKET, &channel->socket);
  curl_easy_getinfo(handle.easy(), CURLINFO_LOCAL_PORT, &port);
  channel->port = port;
  if (!channel->open()) return network(Code::kNetwork, "the connection was lost at once");
  return {};
}

TransferResult DirectTransfer::perform(const Request& request, Attempt* attempt,
                                       TransferTimes* times) {
  const TransportSettings& settings = attempt->transport->settings;
  const Result<Url> url = parse_url(request.url);
  if (!url.ok()) return {url.status()};
  const int timeout = request.timeout_ms > 0 ? request.timeout_ms : settings.request_timeout_ms;
  const auto end =
      timeout > 0 ? Clock::now() + std::chrono::milliseconds(timeout) : Clock::time_point::max();
  const std::string text = format_get(request, *url, settings.user_agent);
  Channel& channel = channel_to(url->origin());
  channel.used = Clock::now();
  for (bool reused = channel.idle();; reused = false) {
    if (!reused) {
      TransferResult outcome = connect(&channel, request, *url, attempt);
      if (!outcome.status.ok()) return outcome;
    }
    times->connection = channel.port;
    times->reused = reused;
    if (attempt->body->progress != nullptr) attempt->body->progress->fresh = !reused;
    ResponseParser reader(attempt);
    TransferResult outcome = exchange(&channel, text, &reader, attempt, end, times);
    const bool fine = outcome.status.ok() && reader.done() && reader.reusable();
    if (!fine) channel.close();
    // The server may have closed the connection while it was idle.
    const bool stale = reused && !outcome.status.ok() && !reader.begun() && attempt->abort.ok() &&
                       !attempt->cut() && attempt->transport->interrupted().ok() &&
                       Clock::now() < end;
    if (!stale) return outcome;
  }
}

TransferResult DirectTransfer::exchange(Channel* channel, const std::string& text,
                                        ResponseParser* reader, Attempt* attempt,
                                        Clock::time_point end, TransferTimes* times) {
  StallWatch watch(attempt->transport->settings);
  CURL* easy = channel->handle.easy();
  std::array<char, kScratch> scratch;  // NOLINT: filled before it is read
  std::size_t sent = 0;
  const Clock::time_point start = Clock::now();
  const auto tick = attempt->body->progress != nullptr ? kWatchedTick : kTick;
  while (!reader->done()) {
    CURLcode result = CURLE_OK;
    std::size_t moved = 0;
    const bool sending = sent < text.size();
    const std::span<char> room = reader->room();
    errno = 0;
    if (sending) {
      result = curl_easy_send(easy, text.data() + sent, text.size() - sent, &moved);
      if (result == CURLE_OK) sent += moved;
    } else if (!room.empty()) {
      result = curl_easy_recv(easy, room.data(), room.size(), &moved);
      if (result == CURLE_OK && moved > 0 && !reader->stored(moved)) {
        return {attempt->transport->interrupted()};
      }
    } else {
      const std::size_t size = reader->in_header() ? kHeaderRead : kScratch;
      result = curl_easy_recv(easy, scratch.data(), size, &moved);
      if (result == CURLE_OK && moved > 0) {
        if (!reader->begun()) {
          times->first_byte = seconds_between(start, Clock::now());
        }
        if (!reader->feed({scratch.data(), moved})) {
          if (!reader->problem().empty()) return network(Code::kNetwork, reader->problem());
          return {attempt->transport->interrupted()};
        }
      }
    }
    if (result == CURLE_OK && moved == 0 && !sending) {
      if (reader->closed()) return {};
      if (!reader->begun()) return network(Code::kNetwork, "the server closed the connection");
      return network(Code::kShortRead, reader->in_header()
                                           ? "the connection was closed within the header"
                                           : "the connection was closed with " +
                                                 std::to_string(reader->missing()) +
                                                 " bytes missing");
    }
    if (result != CURLE_OK && result != CURLE_AGAIN) {
      return channel->handle.outcome(result, /*connected=*/true, errno);
    }
    if (Status status = attempt->transport->interrupted(); !status.ok()) return {status};
    if (attempt->cut()) return network(Code::kTimeout, kCutMessage);
    if (Clock::now() >= end) return network(Code::kTimeout, "the request took too long");
    if (watch.stalled(attempt)) return network(Code::kTimeout, "the transfer has stalled");
    if (result == CURLE_AGAIN) {
      channel->wake_at(room.empty() && !attempt->fills_memory() ? 1 : reader->missing());
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
      wait_for(channel->socket, sending ? POLLOUT : POLLIN,
               std::clamp(left, std::chrono::milliseconds(1), tick));
    }
  }
  channel->wake_at(1);
  return {};
}

}  // namespace streamer::http
