#include "source/http/client/direct_transfer.h"

#include <netdb.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/system.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

// Of the bytes that are copied: the header, and the bytes with it.
constexpr std::size_t kHeaderRead = 4 << 10;
constexpr std::uint64_t kLowWater = 256 << 10;
constexpr std::uint64_t kRecord = 32 << 10;  // more than one of TLS has
constexpr std::size_t kScratch = 64 << 10;
constexpr milliseconds kWatchedTick{20};
// To connect to one of several addresses.
constexpr milliseconds kFirstConnect{2'000};

TransferResult network(Code code, std::string message, int os_error = 0) {
  return {Status::error(code, std::move(message)).with_errno(os_error), true, false};
}

// `error` is a code of getaddrinfo(), or 0 if the resolver has not responded in time.
TransferResult unresolved(const std::string& host, int error) {
  if (const int none = error == 0 ? 0 : exhausted_descriptors(); none != 0) {
    TransferResult result = network(Code::kIo, "Could not resolve host: " + host, none);
    result.status = std::move(result.status).with_hint(kRaiseDescriptorLimit);
    result.unreachable = true;
    return result;
  }
  const std::string why = error == 0 ? "the resolver does not respond" : gai_strerror(error);
  TransferResult result = network(error == 0 ? Code::kTimeout : Code::kNetwork,
                                  "Could not resolve host: " + host + " (" + why + ")");
  result.status = std::move(result.status).with_hint("Check the endpoint's address");
  result.unreachable = true;
  return result;
}

// The address that a SOCKS proxy is told: SOCKS4 has those of IPv4 only.
std::string target_of(const ProxyServer& proxy, const std::vector<std::string>& addresses) {
  const auto usable = std::find_if(addresses.begin(), addresses.end(), [&](const auto& address) {
    return proxy.socks == 5 || address.find(':') == std::string::npos;
  });
  if (usable != addresses.end()) return *usable;
  return addresses.empty() ? std::string() : addresses.front();
}

}  // namespace

struct DirectTransfer::Channel {
  ServerSocket socket;
  std::string origin, proxy;
  Clock::time_point used;
  int low_water = 1;  // bytes that end a wait for the socket
  // Of the server, if the transport has chosen it.
  std::string host, address;
  AddressLease lease;

  void close() {
    socket.close();
    low_water = 1;
    lease.reset();
  }
  // Fewer, larger reads, if so many bytes of the body are missing. Of the bytes still to come by
  // way of TLS, the front of one record may have been read.
  void wake_at(std::uint64_t missing) {
    missing -= std::min(missing, kRecord * static_cast<std::uint64_t>(socket.sessions()));
    const int wanted = static_cast<int>(std::clamp<std::uint64_t>(missing, 1, kLowWater));
    if (wanted == low_water) return;
    socket.wake_at(wanted);
    low_water = wanted;
  }
  // An idle connection with something to read is closed, or has bytes that were not asked for; the
  // TLS library may hold them already.
  bool idle() {
    char byte = 0;
    std::size_t size = 0;
    if (!socket.open()) return false;
    const Io io = socket.receive(&byte, 1, &size);
    return io == Io::kWaitsToRead || io == Io::kWaitsToWrite;
  }
};

DirectTransfer::DirectTransfer() = default;
DirectTransfer::~DirectTransfer() = default;

bool DirectTransfer::serves(const Request& request, const ProxyServer* proxy,
                            const Attempt& attempt) {
  const bool get = request.method == "GET" || request.method == "HEAD";
  // libcurl translates the names of hosts in other scripts.
  const bool plain =
      std::none_of(request.url.begin(), request.url.end(), [](char c) { return (c & 0x80) != 0; });
  return get && attempt.body != nullptr && plain && (proxy == nullptr || !proxy->by_libcurl);
}

DirectTransfer::Channel& DirectTransfer::channel_to(const std::string& origin,
                                                    const std::string& proxy) {
  std::unique_ptr<Channel>* oldest = nullptr;
  for (auto& channel : channels_) {
    if (channel && channel->origin == origin && channel->proxy == proxy) return *channel;
    if (oldest == nullptr || !channel || (*oldest && channel->used < (*oldest)->used))
      oldest = &channel;
  }
  *oldest = std::make_unique<Channel>();
  (*oldest)->origin = origin;
  (*oldest)->proxy = proxy;
  return **oldest;
}

TransferResult DirectTransfer::connect(Channel* channel, const Request& request, const Url& url,
                                       const ProxyServer* proxy, Attempt* attempt) {
  channel->close();
  const std::string& host = proxy != nullptr ? proxy->url.host : url.host;
  Transport& transport = *attempt->transport;
  const milliseconds timeout(request.connect_timeout_ms > 0
                                 ? request.connect_timeout_ms
                                 : transport.settings.connect_timeout_ms);
  const Clock::time_point start = Clock::now();
  const auto left = [&] {
    const auto passed = std::chrono::duration_cast<milliseconds>(Clock::now() - start);
    return static_cast<int>(std::max(timeout - passed, milliseconds(1)).count());
  };
  const auto find = [&](const std::string& name) {
    return transport.addresses.find(
        name, start + timeout, [&] { return transport.interrupted().ok() && !attempt->aborted(); });
  };
  const auto resolve = [&](const std::string& name,
                           std::vector<std::string>* addresses) -> TransferResult {
    Addresses::Found found = find(name);
    if (found.late && !attempt->aborted()) {
      if (Status status = transport.interrupted(); !status.ok()) return {std::move(status)};
    }
    if (found.late || found.error != 0) return unresolved(name, found.error);
    *addresses = std::move(found.addresses);
    return {};
  };
  Route route{.proxy = proxy, .addresses = {}, .target = {}};
  TransferResult outcome = resolve(host, &route.addresses);
  if (!outcome.status.ok()) {
    return proxy == nullptr ? outcome : failed_by(*proxy, std::move(outcome));
  }
  if (proxy != nullptr && !proxy->resolves) {
    std::vector<std::string> targets;
    outcome = resolve(url.host, &targets);
    if (!outcome.status.ok()) return outcome;
    route.target = target_of(*proxy, targets);
  }
  // An address that is silent should not cost all of the time while there are others.
  const bool others = route.addresses.size() > 1 && timeout > kFirstConnect;
  outcome = connect_once(channel, url, route,
                         others ? static_cast<int>(kFirstConnect.count()) : left(), attempt);
  if (!others || outcome.status.code() != Code::kTimeout || attempt->aborted() ||
      !transport.interrupted().ok() || left() <= 1) {
    return outcome;
  }
  route.addresses = find(host).addresses;
  return connect_once(channel, url, route, left(), attempt);
}

TransferResult DirectTransfer::connect_once(Channel* channel, const Url& url, const Route& route,
                                            int timeout_ms, Attempt* attempt) {
  Transport& transport = *attempt->transport;
  const std::string& host = route.proxy != nullptr ? route.proxy->url.host : url.host;
  const std::vector<std::string>& addresses = route.addresses;
  const milliseconds timeout(timeout_ms);
  ServerSocket& socket = channel->socket;
  TransferResult outcome = socket.connect(url, route, timeout, attempt);
  if (!outcome.status.ok()) {
    if (transport.interrupted().ok() && !attempt->aborted()) {
      if (!addresses.empty()) transport.addresses.failed(host, addresses.front());
      if (!route.target.empty()) transport.addresses.failed(url.host, route.target);
    }
    return outcome;
  }
  const std::string& peer = socket.peer();
  if (!addresses.empty()) {
    if (addresses.front() != peer) transport.addresses.failed(host, addresses.front());
    channel->host = host;
    channel->address = peer;
    channel->lease = transport.addresses.lease(host, peer);
  }
  return {};
}

TransferResult DirectTransfer::perform(const Request& request, const ProxyServer* proxy,
                                       Attempt* attempt, TransferTimes* times) {
  const TransportSettings& settings = attempt->transport->settings;
  const Result<Url> url = parse_url(request.url);
  if (!url.ok()) return {url.status()};
  const int timeout = request.timeout_ms > 0 ? request.timeout_ms : settings.request_timeout_ms;
  const auto end = timeout > 0 ? Clock::now() + milliseconds(timeout) : Clock::time_point::max();
  // Else a tunnel has the proxy's header, or SOCKS its user and password.
  const bool forwarded = proxy != nullptr && proxy->socks == 0 && url->scheme == "http";
  const std::string text = format_request(request, *url, settings.user_agent,
                                          forwarded ? Target::kProxy : Target::kServer,
                                          forwarded ? proxy->authorization : std::string());
  Channel& channel = channel_to(url->origin(), proxy != nullptr ? proxy->text : std::string());
  channel.used = Clock::now();
  for (bool reused = channel.idle();; reused = false) {
    if (!reused) {
      TransferResult outcome = connect(&channel, request, *url, proxy, attempt);
      if (!outcome.status.ok()) return outcome;
    }
    times->connection = channel.socket.port();
    times->reused = reused;
    if (attempt->body->progress != nullptr) attempt->body->progress->fresh = !reused;
    ResponseParser reader(attempt, request.method == "HEAD");
    TransferResult outcome = exchange(&channel, text, &reader, attempt, end, times);
    if (reader.begun()) {
      channel.socket.demand().responded();
    } else {
      outcome = channel.socket.demand().unanswered(std::move(outcome));
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
  ServerSocket& socket = channel->socket;
  std::array<char, kScratch> scratch;  // NOLINT: filled before it is read
  std::size_t sent = 0;
  const Clock::time_point start = Clock::now();
  const auto tick = attempt->body->progress != nullptr ? kWatchedTick : kTick;
  while (!reader->done()) {
    Io result = Io::kDone;
    std::size_t moved = 0;
    const bool sending = sent < text.size();
    const std::span<char> room = reader->room();
    if (sending) {
      result = socket.send(text.data() + sent, text.size() - sent, &moved);
      sent += moved;
    } else if (!room.empty()) {
      result = socket.receive(room.data(), room.size(), &moved);
      if (moved > 0 && !reader->stored(moved)) {
        return {attempt->transport->interrupted()};
      }
    } else {
      const std::size_t size = reader->in_header() ? kHeaderRead : kScratch;
      result = socket.receive(scratch.data(), size, &moved);
      if (moved > 0) {
        if (!reader->begun()) {
          times->first_byte = seconds_between(start, Clock::now());
        }
        if (!reader->feed({scratch.data(), moved})) {
          if (!reader->problem().empty()) return network(Code::kNetwork, reader->problem());
          return {attempt->transport->interrupted()};
        }
      }
    }
    if (result == Io::kDone && moved == 0 && !sending) {
      if (!socket.cut_off() && reader->closed()) return {};
      if (!reader->begun()) return network(Code::kNetwork, "the server closed the connection");
      std::string where = "within a body of unknown length";
      if (reader->in_header()) where = "within the header";
      if (reader->missing() > 0)
        where = "with " + std::to_string(reader->missing()) + " bytes missing";
      return network(Code::kShortRead, "the connection was closed " + where);
    }
    if (result == Io::kFailed) return socket.failure();
    if (Status status = attempt->transport->interrupted(); !status.ok()) return {status};
    if (attempt->aborted()) return network(Code::kTimeout, kStragglerMessage);
    if (Clock::now() >= end) return network(Code::kTimeout, "the request took too long");
    if (watch.stalled(attempt)) return network(Code::kTimeout, "the transfer has stalled");
    if (result != Io::kDone) {
      channel->wake_at(room.empty() && !attempt->fills_memory() ? 1 : reader->missing());
      const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
      socket.wait(result == Io::kWaitsToWrite, std::clamp(left, milliseconds(1), tick));
    }
  }
  channel->wake_at(1);
  return {};
}

}  // namespace streamer::http
