// One attempt at one request, over a connection that is kept alive for the next.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/memory_budget.h"
#include "base/mutex.h"
#include "base/settings.h"
#include "source/http/client/addresses.h"
#include "source/http/client/bandwidth.h"
#include "source/http/client/proxy.h"
#include "source/http/client/request.h"
#include "source/http/client/request_log.h"
#include "source/http/client/retry.h"
#include "source/http/client/tls.h"
#include "source/source.h"
#include "streamer/status.h"

namespace streamer::http {

// The settings of requests: the same for all connections of a stream.
struct TransportSettings {
  int connect_timeout_ms = 0;
  int request_timeout_ms = 0;                 // of one attempt; 0: none
  std::int64_t low_speed_bytes = 0;           // bytes per second
  int low_speed_seconds = 0;                  // a slower attempt is aborted after this; 0: never
  int max_attempts = 0;                       // at one request; 0: no limit but `retry_timeout`
  std::chrono::seconds retry_timeout{0};      // without progress, until a request is given up
  std::optional<Clock::time_point> deadline;  // of the whole load
  TrustStore trust;                           // empty: that of the TLS library
  std::uint64_t max_bandwidth = 0;            // bytes per second of the process; 0: no limit
  std::string trace_file;                     // empty: no trace
  bool trace_follows_links = true;            // false: the name of the file can be guessed
  std::string user_agent;
  bool plain_tokens = false;  // secrets that can be replayed may be sent over plain http

  // From the settings of the process. The deadline counts from this call. `trust_file` is that of
  // the protocol's own configuration.
  static Result<TransportSettings> read(const Settings& settings, SourceKind kind,
                                        const std::string& trust_file);
};

// The result of an attempt below HTTP: a response of any status is ok.
struct TransferResult {
  Status status;
  bool retry = false;        // worth another attempt
  bool unreachable = false;  // no connection was made: DNS, refused, TLS
  bool refused = false;      // of these: there is no listener, or not yet
  // The proxy does not accept the user and the password. Accounts are locked after some attempts.
  bool login_refused = false;
};

// Which logins of proxies were accepted, so that each proxy is told a wrong one once. Thread-safe.
class ProxyLogins {
 public:
  enum class State { kUnknown, kTried, kAccepted, kRefused };
  struct Refusal {
    TransferResult outcome;
    Response response;
  };
  // The state of the login of `proxy`. After kUnknown it is kTried for others, and the caller
  // tries it and calls ended(). After kRefused, `*refusal` is that of the first request.
  State begin(const std::string& proxy, Refusal* refusal);
  void ended(const std::string& proxy, State state, Refusal refusal = {});

 private:
  struct Entry {
    State state = State::kUnknown;
    Refusal refusal;
  };
  Mutex mutex_;
  std::map<std::string, Entry> known_ GUARDED_BY(mutex_);
};

// State that all connections of a source share. Thread-safe.
struct Transport {
  Transport(TransportSettings settings, const CancelToken& cancel);
  const TransportSettings settings;
  const CancelToken& cancel;
  Trace trace;
  RetryBudget retries;
  Addresses addresses;
  ProxyLogins logins;
  std::atomic<bool> reached{false};  // some server has responded
  std::atomic<double> latency{0};    // seconds until a response began, the least so far; 0: none
  void note_latency(double seconds);

  // Waits; false when cancelled or past the deadline before that.
  bool sleep(std::chrono::milliseconds duration) const;
  // Not ok when cancelled or past the deadline.
  Status interrupted() const;
};

// The checksum of bytes as they arrive, while they are in the processor's caches.
struct RunningSum {
  // Adds `data` to the sum.
  std::uint64_t (*add)(std::span<const std::byte> data, std::uint64_t sum) = nullptr;
  std::uint64_t value = 0;
  std::uint64_t size = 0;  // bytes that it is of
};

// The memory for the body of a response. Bodies of error statuses always go to Response::body.
struct BodySink {
  // Called when the header of a 2xx response is complete and before its body; not ok: the transfer
  // ends and fails with that. It may change `segments` and `skip`.
  std::function<Status(const Response&)> accept;
  std::span<const iovec> segments;   // memory for the body; empty: Response::body
  std::uint64_t skip = 0;            // bytes of the body to drop first
  bool cut_when_full = false;        // more bytes than segments hold: end well instead of failing
  std::uint64_t received = 0;        // bytes written to segments, even if the attempt failed
  ReadProgress* progress = nullptr;  // of the read that this is a part of; may be null
  RunningSum* sum = nullptr;         // of bytes written to segments; may be null
};

// The retries of requests to a service beside the storage.
enum class Persistence {
  kProbe,    // it may not exist at all: twice, unless it responds that it is busy
  kService,  // it was named, so that it has to be there: up to 30 s, or 3 times if the name does
             // not resolve or TLS fails
};

// Owned by one thread.
class Connection {
 public:
  explicit Connection(Transport& transport);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Makes one attempt. `retry_number` is only for the trace. `body` may be null.
  TransferResult perform(const Request& request, Response* response, BodySink* body,
                         int retry_number = 0);
  // The same with retries, for responses of at most 1 MiB of services beside the storage (tokens,
  // metadata): retries network failures, 429 and 5xx. Ok with any other status.
  Result<Response> fetch(Request request, Persistence persistence = Persistence::kService);
  Transport& transport() { return transport_; }
  // Counts kTlsBytes as a reader's for each session of TLS (a server's, and an HTTPS proxy's), from
  // the first request over it until this connection ends.
  void count_tls_in(MemoryBudget* budget) { budget_ = budget; }

 private:
  void count_tls(const Request& request, const ProxyServer* proxy);
  TransferResult attempt(const Request& request, const ProxyServer* proxy, Response* response,
                         BodySink* body, int retry_number);

  struct Impl;
  Transport& transport_;
  std::unique_ptr<Impl> impl_;
  MemoryBudget* budget_ = nullptr;
  std::uint64_t counted_ = 0;  // bytes
};

// Bytes of memory that one connection holds while it works, and that TLS adds.
inline constexpr std::uint64_t kPlainBytes = 128 << 10;
inline constexpr std::uint64_t kTlsBytes = 640 << 10;

}  // namespace streamer::http
