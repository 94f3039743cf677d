#include "source/http/client/direct_transfer.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

// Of the bytes that are copied: the header, and what comes with it.
constexpr std::size_t kHeaderRead = 4 << 10;
constexpr std::uint64_t kLowWater = 256 << 10;
constexpr std::uint64_t kRecord = 32 << 10;  // more than one of TLS has
constexpr std::size_t kScratch = 64 << 10;
constexpr milliseconds kWatchedTick{20};
// To connect to one of several addresses.
constexpr milliseconds kFirstConnect{2'000};

bool wait_for(curl_socket_t socket, short what, milliseconds time) {
  pollfd one{socket, what, 0};
  return poll(&one, 1, static_cast<int>(time.count())) > 0;
}

TransferResult network(Code code, std::string message, int os_error = 0) {
  return {Status::error(code, std::move(message)).with_errno(os_error), true, false};
}

// `error` is a code of getaddrinfo(), or 0 where the resolver has not responded in time.
TransferResult unresolved(const std::string& host, int error) {
  const std::string why = error == 0 ? "the resolver does not respond" : gai_strerror(error);
  TransferResult result = network(error == 0 ? Code::kTimeout : Code::kNetwork,
                                  "Could not resolve host: " + host + " (" + why + ")");
  result.status = std::move(result.status).with_hint("Check the endpoint's address");
  result.unreachable = true;
  result.unresolved = error != 0;
  return result;
}

}  // namespace

struct DirectTransfer::Channel {
  CurlHandle handle;
  std::string origin;
  curl_socket_t socket = CURL_SOCKET_BAD;
  std::int64_t port = -1;  // local
  Clock::time_point used;
  int low_water = 1;  // bytes that wake who waits for the socket
  // Of the server, where the transport has chosen it.
  std::string host, address;
  AddressLease lease;

  bool open() const { return socket != CURL_SOCKET_BAD; }
  void close() {
    handle.end();
    socket = CURL_SOCKET_BAD;
    low_water = 1;
    lease.reset();
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
  // An idle connection with something to read is closed, or has bytes that nobody asked for; the
  // TLS library may hold them already.
  bool idle() const {
    char byte = 0;
    std::size_t size = 0;
    return open() && curl_easy_recv(handle.easy(), &byte, 1, &size) == CURLE_AGAIN;
  }
};

DirectTransfer::DirectTransfer() = default;
DirectTransfer::~DirectTransfer() = default;

bool DirectTransfer::serves(const Request& request, const Attempt& attempt) {
  const bool get = request.method == "GET" || request.method == "HEAD";
  return get && attempt.body != nullptr && proxy_for(request).empty();
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
  Transport& transport = *attempt->transport;
  const milliseconds timeout(request.connect_timeout_ms > 0
                                 ? request.connect_timeout_ms
                                 : transport.settings.connect_timeout_ms);
  const Clock::time_point start = Clock::now();
  const auto left = [&] {
    const auto passed = std::chrono::duration_cast<milliseconds>(Clock::now() - start);
    return static_cast<int>(std::max(timeout - passed, milliseconds(1)).count());
  };
  const auto find = [&] {
    return transport.addresses.find(url.host, start + timeout, [&] {
      return transport.interrupted().ok() && !attempt->aborted();
    });
  };
  Addresses::Found found = find();
  if (found.late && !attempt->aborted()) {
    if (Status status = transport.interrupted(); !status.ok()) return {std::move(status)};
  }
  if (found.late || found.error != 0) {
    return unresolved(url.host, found.error);
  }
  // An address that is silent should not cost all of the time while there are others.
  const bool others = found.addresses.size() > 1 && timeout > kFirstConnect;
  TransferResult outcome =
      connect_once(channel, request, url, found.addresses,
                   others ? static_cast<int>(kFirstConnect.count()) : left(), attempt);
  if (!others || outcome.status.code() != Code::kTimeout || attempt->aborted() ||
      !transport.interrupted().ok() || left() <= 1) {
    return outcome;
  }
  return connect_once(channel, request, url, find().addresses, left(), attempt);
}

TransferResult DirectTransfer::connect_once(Channel* channel, const Request& request,
                                            const Url& url,
                                            const std::vector<std::string>& addresses,
                                            int timeout_ms, Attempt* attempt) {
  Transport& transport = *attempt->transport;
  CurlHandle& handle = channel->handle;
  handle.prepare(request, transport.settings);
  handle.set(CURLOPT_URL, (url.origin() + "/").c_str());
  handle.set(CURLOPT_CONNECT_ONLY, 1L);
  handle.set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(timeout_ms));
  handle.read_ahead();
  handle.resolve(url, addresses);
  const CURLcode result = handle.run(attempt);
  if (result != CURLE_OK) {
    long os_error = 0;
    curl_easy_getinfo(handle.easy(), CURLINFO_OS_ERRNO, &os_error);
    TransferResult outcome =
        handle.unanswered(handle.outcome(result, /*connected=*/false, static_cast<int>(os_error)));
    channel->close();
    if (!addresses.empty() && transport.interrupted().ok() && !attempt->aborted()) {
      transport.addresses.failed(url.host, addresses.front());
    }
    return outcome;
  }
  const char* peer = nullptr;
  curl_easy_getinfo(handle.easy(), CURLINFO_PRIMARY_IP, &peer);
  if (peer != nullptr && !addresses.empty()) {
    // libcurl goes on to the next address where one does not respond.
    if (addresses.front() != peer) transport.addresses.failed(url.host, addresses.front());
    channel->host = url.host;
    channel->address = peer;
    channel->lease = transport.addresses.lease(url.host, peer);
  }
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
  const auto end = timeout > 0 ? Clock::now() + milliseconds(timeout) : Clock::time_point::max();
  const std::string text = format_request(request, *url, settings.user_agent);
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
    ResponseParser reader(attempt, request.method == "HEAD");
    TransferResult outcome = exchange(&channel, text, &reader, attempt, end, times);
    if (reader.begun()) {
      channel.handle.answered();
    } else {
      outcome = channel.handle.unanswered(std::move(outcome));
    }
    const bool fine = outcome.status.ok() && reader.done() && reader.reusable();
    const bool ended = !attempt->abort.ok() || !attempt->transport->interrupted().ok();
    // The server may have closed the connection while it was idle.
    const bool stale = reused && !outcome.status.ok() && !reader.begun() && !ended &&
                       !attempt->aborted() && Clock::now() < end;
    if (!outcome.status.ok() && !ended && !stale && channel.lease) {
      attempt->transport->addresses.lagged(channel.host, channel.address);
    }
    if (!fine) channel.close();
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
    if (attempt->aborted()) return network(Code::kTimeout, kStragglerMessage);
    if (Clock::now() >= end) return network(Code::kTimeout, "the request took too long");
    if (watch.stalled(attempt)) return network(Code::kTimeout, "the transfer has stalled");
    if (result == CURLE_AGAIN) {
      channel->wake_at(room.empty() && !attempt->fills_memory() ? 1 : reader->missing());
      const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
      wait_for(channel->socket, sending ? POLLOUT : POLLIN,
               std::clamp(left, milliseconds(1), tick));
    }
  }
  channel->wake_at(1);
  return {};
}

}  // namespace streamer::http
