#include "source/http/operation.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "source/http/client/retry.h"
#include "source/http/error_status.h"

namespace streamer::http {
namespace {

constexpr int kHurriedAttempts = 2;  // see Operation::hurry_ms
constexpr int kSlowBegin = 3;        // a list may take so many times as long as others to begin
constexpr int kAttemptsWhenNeverReached = 4;  // a wrong address should not take long to tell
constexpr std::chrono::seconds kNotListeningYet{15};  // a server that starts may be late
constexpr int kMaxAgain = 5;
constexpr int kMaxRedirected = 25;  // other connections may make the way begin anew

}  // namespace

Status OperationLoop::from_endpoint(Status status, const Location& location,
                                    const CredentialsRef& who) const {
  if (status.ok() || status.code() == Code::kCancelled) return status;
  const char* hint = standard_hint(status);
  return std::move(status)
      .with_endpoint(protocol_.endpoint(location, who.get()).shown())
      .with_hint(hint);
}

Status OperationLoop::perform(const Operation& operation, Response* response, ReadReport* report) {
  CredentialsRef who;
  Status status = perform(operation, response, report, &who);
  return from_endpoint(std::move(status), operation.location, who);
}

Status OperationLoop::perform(const Operation& operation, Response* response, ReadReport* report,
                              CredentialsRef* who) {
  Transport& transport = source_.transport();
  Backoff backoff(transport.settings.max_attempts);
  bool refreshed = false;
  int again = 0;
  int redirected = 0;
  Clock::time_point failing_since;  // the begin of the attempt that completed an arrival last
  std::uint64_t brought = 0;        // bytes, by the attempts since then
  for (int attempt = 0;; ++attempt) {
    if (attempt > 0) ++report->retries;
    Result<CredentialsRef> credentials = protocol_.credentials(operation.location, connection_);
    if (!credentials.ok()) return credentials.status().with_path(operation.location.path);
    *who = *credentials;
    Result<Request> request = operation.make(*credentials);
    if (!request.ok()) return request.status();
    const int most = transport.settings.max_attempts;
    const bool last = most > 0 && attempt + 1 >= most;
    if (operation.hurry_ms > 0 && attempt < kHurriedAttempts && !last && request->timeout_ms == 0) {
      const int limit = operation.hurry_ms << (2 * attempt);
      const int given = transport.settings.request_timeout_ms;
      request->timeout_ms = given > 0 ? std::min(given, limit) : limit;
    }

    const Clock::time_point began = Clock::now();
    if (attempt == 0) failing_since = began;
    if (operation.begins_late) request->begin_seconds = time_to_begin(began - failing_since);
    TransferResult outcome = connection_.perform(
        *request, response, operation.body ? operation.body() : nullptr, attempt);
    report->seconds += response->seconds;
    report->waited += response->waited;
    bool done = false;
    const std::uint64_t bytes = operation.progress ? operation.progress(&done) : 0;
    brought += bytes;
    if (bytes > 0) backoff.shorten();
    const bool arrived = brought >= kArrival;
    if (arrived) {
      brought = 0;
      backoff.forgive();
      failing_since = began;
      transport.retries.arrived();
    }
    // A failure after the last byte does not matter, but a server that sends more does.
    if (done && (outcome.status.ok() || outcome.retry)) {
      transport.retries.progress();
      return {};
    }
    const bool good = response->status >= 200 && response->status <= 299;
    Status status = std::move(outcome.status);
    bool retry = outcome.retry;
    if (status.ok() && good && operation.cut_off && operation.cut_off()) {
      status = Status::error(Code::kShortRead, "the connection was closed within the body");
      retry = true;
    }
    if (status.code() == Code::kChanged && operation.changed && operation.changed(nullptr) &&
        ++again <= kMaxAgain) {
      continue;
    }
    if (status.code() == Code::kInvalid && *credentials) {  // the identity that was not sent
      status = std::move(status).with_identity((*credentials)->identity);
    }
    // A proxy that refuses does so whatever the server is.
    const bool refused = status.ok() && !good && response->status != 407;
    if (((outcome.unreachable && !outcome.login_refused) || refused) &&
        protocol_.elsewhere(operation.location, *request, refused ? response : nullptr,
                            source_.responded()) &&
        ++again <= kMaxAgain) {
      continue;
    }
    if (status.ok()) source_.set_responded();
    std::chrono::milliseconds retry_after{0};
    if (status.ok()) {
      const bool foreign = good && operation.foreign && operation.foreign();
      if (!foreign && (good || (operation.tolerate && operation.tolerate(*response)))) {
        transport.retries.progress();
        return {};
      }
      const ServerError error = protocol_.read_error(operation.location, *response);
      if (foreign && error.server_code.empty()) return sent_a_page(*response, "object");
      status = to_status(error, *response, *credentials);
      if (error.decision == RetryDecision::kRetryAtOnce && ++again <= kMaxAgain) continue;
      // Redirects are no refusals: an operation that was refused ends with the refusal.
      if (error.decision == RetryDecision::kFollow && ++redirected <= kMaxRedirected) continue;
      if (operation.changed && operation.changed(&error) && ++again <= kMaxAgain) continue;
      if (error.decision == RetryDecision::kRefresh && !refreshed) {
        refreshed = true;
        protocol_.refused(operation.location, *credentials);
        continue;
      }
      retry = error.decision == RetryDecision::kRetry;
      if (error.code == Code::kThrottled) source_.refused();
      retry_after = parse_retry_after(response->header("retry-after"));
    }
    const Clock::time_point now = Clock::now();
    const std::chrono::milliseconds left = transport.retries.left(failing_since, now);
    const bool never = outcome.unreachable && !transport.reached.load(std::memory_order_relaxed);
    const bool late = never && outcome.refused && now - failing_since < kNotListeningYet;
    if (!retry || !backoff.another(never && !late ? kAttemptsWhenNeverReached : 0) ||
        left <= std::chrono::milliseconds(0)) {
      if (attempt == 0) return status;
      return std::move(status).with_attempts(attempt + 1);
    }
    // What was cut off goes on at once. Else the last attempt comes before the time is over, even
    // if the server wants it later.
    std::chrono::milliseconds pause{0};
    if (!arrived) pause = std::min(backoff.pause(retry_after) + transport.retries.take(), left);
    if (source_.retried()) {
      Status reason = from_endpoint(std::move(status), operation.location, *credentials);
      reason = std::move(reason).with_path(operation.location.path);
      source_.retried()({.path = reason.detail().path,
                         .attempt = attempt + 1,
                         .pause = std::chrono::duration<double>(pause).count(),
                         .reason = reason});
    }
    if (operation.watched != nullptr) operation.watched->pausing = true;
    const bool slept = transport.sleep(pause);
    if (operation.watched != nullptr) operation.watched->pausing = false;
    if (!slept) return transport.interrupted();
  }
}

// Seconds that the server may take to begin its response to a request that has been `failing` for
// so long: no longer than requests are retried, unless that is less than a stall takes.
int OperationLoop::time_to_begin(Clock::duration failing) const {
  const TransportSettings& settings = source_.transport().settings;
  const auto left = std::chrono::ceil<std::chrono::seconds>(settings.retry_timeout - failing);
  const int least = settings.low_speed_seconds;
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), least, std::int64_t{least} * kSlowBegin));
}

}  // namespace streamer::http
