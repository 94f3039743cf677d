#include <unistd.h>

#include <algorithm>
#include <thread>

#include "source/http/client/connection.h"
#include "source/http/client/tls.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

template <typename T>
Status take(const Settings& settings, const char* name, T* value) {
  const auto set = settings.number(name);
  if (!set.ok()) return set.status();
  *value = static_cast<T>(*set);
  return {};
}

}  // namespace

Result<TransportSettings> TransportSettings::read(const Settings& settings, SourceKind kind,
                                                  const std::string& trust_file) {
  TransportSettings out;
  std::int64_t deadline_seconds = 0;
  std::int64_t retry_timeout = 0;
  for (Status status :
       {take(settings, "RUNAI_STREAMER_CONNECT_TIMEOUT_MS", &out.connect_timeout_ms),
        take(settings, "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS", &out.request_timeout_ms),
        take(settings, "RUNAI_STREAMER_S3_LOW_SPEED_LIMIT", &out.low_speed_bytes),
        take(settings, "RUNAI_STREAMER_LOW_SPEED_SECONDS", &out.low_speed_seconds),
        take(settings, "RUNAI_STREAMER_RETRY_SECONDS", &retry_timeout),
        take(settings, "RUNAI_STREAMER_MAX_BANDWIDTH", &out.max_bandwidth),
        take(settings, "RUNAI_STREAMER_DEADLINE_SECONDS", &deadline_seconds)}) {
    if (!status.ok()) return status;
  }
  const auto max_attempts = settings.integer("RUNAI_STREAMER_MAX_ATTEMPTS");
  if (!max_attempts.ok()) return max_attempts.status();
  out.max_attempts = static_cast<int>(max_attempts->value_or(0));
  out.retry_timeout = std::chrono::seconds(retry_timeout);
  if (deadline_seconds > 0) out.deadline = Clock::now() + std::chrono::seconds(deadline_seconds);

  Result<TrustStore> store = find_trust_store(settings, kind, trust_file);
  if (!store.ok()) return store.status();
  out.trust = std::move(*store);

  const auto plain = settings.enabled("RUNAI_STREAMER_ALLOW_PLAIN_TOKENS");
  if (!plain.ok()) return plain.status();
  out.plain_tokens = *plain;

  const auto trace = settings.boolean("RUNAI_STREAMER_S3_TRACE");
  if (!trace.ok()) return trace.status();
  const auto trace_file = settings.text("RUNAI_STREAMER_TRACE_FILE");
  if (trace_file && trace->value_or(true)) {
    out.trace_file = *trace_file;
  } else if (trace->value_or(false)) {
    out.trace_follows_links = false;
    out.trace_file = "runai_streamer_trace." + std::to_string(::getpid()) + ".log";
  }
  out.user_agent = std::string("model-streamer/") + version();
  return out;
}

Transport::Transport(TransportSettings given, const CancelToken& token)
    : settings(std::move(given)),
      cancel(token),
      trace(settings.trace_file, settings.trace_follows_links),
      retries(settings.retry_timeout) {}

ProxyLogins::State ProxyLogins::begin(const std::string& proxy, Refusal* refusal) {
  const MutexLock lock(mutex_);
  Entry& entry = known_[proxy];
  if (entry.state == State::kRefused) *refusal = entry.refusal;
  if (entry.state != State::kUnknown) return entry.state;
  entry.state = State::kTried;
  return State::kUnknown;
}

void ProxyLogins::ended(const std::string& proxy, State state, Refusal refusal) {
  const MutexLock lock(mutex_);
  known_[proxy] = {state, std::move(refusal)};
}

void Transport::note_latency(double seconds) {
  double least = latency.load(std::memory_order_relaxed);
  while ((least == 0 || seconds < least) &&
         !latency.compare_exchange_weak(least, seconds, std::memory_order_relaxed)) {
  }
}

Status Transport::interrupted() const {
  if (cancel.cancelled()) return Status::error(Code::kCancelled, "the stream was closed");
  if (settings.deadline && Clock::now() >= *settings.deadline) {
    return Status::error(Code::kTimeout, "the deadline of the whole load has passed")
        .with_hint("RUNAI_STREAMER_DEADLINE_SECONDS sets it");
  }
  return {};
}

bool Transport::sleep(milliseconds duration) const {
  const Clock::time_point end = Clock::now() + duration;
  for (;;) {
    if (!interrupted().ok()) return false;
    const Clock::time_point now = Clock::now();
    if (now >= end) return true;
    std::this_thread::sleep_for(std::min<Clock::duration>(end - now, milliseconds(20)));
  }
}

}  // namespace streamer::http
