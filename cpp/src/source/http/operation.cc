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

// The attempts at one operation, one after another.
class Attempts {
 public:
  Attempts(const OperationLoop& loop, HttpSource& source, Connection& connection,
           const Operation& operation, Response* response, ReadReport* report)
      : loop_(loop),
        source_(source),
        protocol_(source.protocol()),
        transport_(source.transport()),
        connection_(connection),
        operation_(operation),
        response_(response),
        report_(report),
        backoff_(transport_.settings.max_attempts) {}

  // The status does not name the endpoint.
  Status run();
  // The credentials of the last request.
  const CredentialsRef& who() const { return who_; }

 private:
  enum class Next { kEnd, kAskAgain, kFail };  // kFail: unless the attempt is repeated later
  struct Verdict {
    Next next = Next::kEnd;
    Status status = {};
    bool retry = false;  // kFail: another attempt may succeed
    std::chrono::milliseconds retry_after{0};
  };

  Result<Request> make_request();
  TransferResult attempt(Request* request);
  bool complete();
  Verdict served();
  Verdict judge(const Request& request, TransferResult* outcome);
  Verdict judge_response(bool good);
  bool asks_again_after(const ServerError& error);
  bool again() { return ++again_ <= kMaxAgain; }
  Status wait_to_retry(const TransferResult& outcome, Verdict verdict);
  void report_retry(Status reason, std::chrono::milliseconds pause);
  int time_to_begin(Clock::duration failing) const;

  const OperationLoop& loop_;
  HttpSource& source_;
  Protocol& protocol_;
  Transport& transport_;
  Connection& connection_;
  const Operation& operation_;
  Response* const response_;
  ReadReport* const report_;

  Backoff backoff_;
  CredentialsRef who_;
  int number_ = 0;  // of the attempt
  int again_ = 0;
  int redirected_ = 0;
  bool refreshed_ = false;
  Clock::time_point began_;          // the attempt
  Clock::time_point failing_since_;  // the begin of the attempt that completed an arrival last
  std::uint64_t brought_ = 0;        // bytes, by the attempts since then
  bool arrived_ = false;             // the attempt completed an arrival
};

Status Attempts::run() {
  for (;; ++number_) {
    if (number_ > 0) ++report_->retries;
    Result<Request> request = make_request();
    if (!request.ok()) return request.status();
    TransferResult outcome = attempt(&*request);
    // A failure after the last byte does not matter, but a server that sends more does.
    const bool enough = complete() && (outcome.status.ok() || outcome.retry);
    Verdict verdict = enough ? served() : judge(*request, &outcome);
    if (verdict.next == Next::kEnd) return std::move(verdict.status);
    if (verdict.next == Next::kAskAgain) continue;
    if (Status status = wait_to_retry(outcome, std::move(verdict)); !status.ok()) return status;
  }
}

Result<Request> Attempts::make_request() {
  Result<CredentialsRef> credentials = protocol_.credentials(operation_.location, connection_);
  if (!credentials.ok()) return credentials.status().with_path(operation_.location.path);
  who_ = *credentials;
  Result<Request> request = operation_.make(who_);
  if (!request.ok()) return request;
  const int most = transport_.settings.max_attempts;
  const bool last = most > 0 && number_ + 1 >= most;
  if (operation_.hurry_ms > 0 && number_ < kHurriedAttempts && !last && request->timeout_ms == 0) {
    const int limit = operation_.hurry_ms << (2 * number_);
    const int given = transport_.settings.request_timeout_ms;
    request->timeout_ms = given > 0 ? std::min(given, limit) : limit;
  }
  return request;
}

TransferResult Attempts::attempt(Request* request) {
  began_ = Clock::now();
  if (number_ == 0) failing_since_ = began_;
  if (operation_.begins_late) request->begin_seconds = time_to_begin(began_ - failing_since_);
  TransferResult outcome = connection_.perform(
      *request, response_, operation_.body ? operation_.body() : nullptr, number_);
  report_->seconds += response_->seconds;
  report_->waited += response_->waited;
  return outcome;
}

// Counts the bytes of the attempt. True if none is missing.
bool Attempts::complete() {
  bool done = false;
  const std::uint64_t bytes = operation_.progress ? operation_.progress(&done) : 0;
  brought_ += bytes;
  if (bytes > 0) backoff_.shorten();
  arrived_ = brought_ >= kArrival;
  if (arrived_) {
    brought_ = 0;
    backoff_.forgive();
    failing_since_ = began_;
    transport_.retries.arrived();
  }
  return done;
}

Attempts::Verdict Attempts::served() {
  transport_.retries.progress();
  return {};
}

Attempts::Verdict Attempts::judge(const Request& request, TransferResult* outcome) {
  const bool good = response_->status >= 200 && response_->status <= 299;
  Status status = std::move(outcome->status);
  bool retry = outcome->retry;
  if (status.ok() && good && operation_.cut_off && operation_.cut_off()) {
    status = Status::error(Code::kShortRead, "the connection was closed within the body");
    retry = true;
  }
  if (status.code() == Code::kChanged && operation_.changed && operation_.changed(nullptr) &&
      again()) {
    return {.next = Next::kAskAgain};
  }
  if (status.code() == Code::kInvalid && who_) {  // the identity that was not sent
    status = std::move(status).with_identity(who_->identity);
  }
  // A proxy that refuses does so whatever the server is.
  const bool refused = status.ok() && !good && response_->status != 407;
  const bool unreachable = outcome->unreachable && !outcome->login_refused;
  if ((unreachable || refused) &&
      protocol_.elsewhere(operation_.location, request, refused ? response_ : nullptr,
                          source_.responded()) &&
      again()) {
    return {.next = Next::kAskAgain};
  }
  if (!status.ok()) return {.next = Next::kFail, .status = std::move(status), .retry = retry};
  source_.set_responded();
  return judge_response(good);
}

Attempts::Verdict Attempts::judge_response(bool good) {
  const bool foreign = good && operation_.foreign && operation_.foreign();
  if (!foreign && (good || (operation_.tolerate && operation_.tolerate(*response_)))) {
    return served();
  }
  const ServerError error = protocol_.read_error(operation_.location, *response_);
  if (foreign && error.server_code.empty()) return {.status = sent_a_page(*response_, "object")};
  if (asks_again_after(error)) return {.next = Next::kAskAgain};
  if (error.code == Code::kThrottled) source_.refused();
  return {.next = Next::kFail,
          .status = to_status(error, *response_, who_),
          .retry = error.decision == RetryDecision::kRetry,
          .retry_after = parse_retry_after(response_->header("retry-after"))};
}

// True if another request may be served at once.
bool Attempts::asks_again_after(const ServerError& error) {
  if (error.decision == RetryDecision::kRetryAtOnce && again()) return true;
  // Redirects are no refusals: an operation that was refused ends with the refusal.
  if (error.decision == RetryDecision::kFollow && ++redirected_ <= kMaxRedirected) return true;
  if (operation_.changed && operation_.changed(&error) && again()) return true;
  if (error.decision != RetryDecision::kRefresh || refreshed_) return false;
  refreshed_ = true;
  protocol_.refused(operation_.location, who_);
  return true;
}

// Waits until the next attempt is due. Not ok if there is none.
Status Attempts::wait_to_retry(const TransferResult& outcome, Verdict verdict) {
  const Clock::time_point now = Clock::now();
  const std::chrono::milliseconds left = transport_.retries.left(failing_since_, now);
  const bool never = outcome.unreachable && !transport_.reached.load(std::memory_order_relaxed);
  const bool late = never && outcome.refused && now - failing_since_ < kNotListeningYet;
  if (!verdict.retry || !backoff_.another(never && !late ? kAttemptsWhenNeverReached : 0) ||
      left <= std::chrono::milliseconds(0)) {
    if (number_ == 0) return std::move(verdict.status);
    return std::move(verdict.status).with_attempts(number_ + 1);
  }
  // What was cut off goes on at once. Else the last attempt comes before the time is over, even if
  // the server wants it later.
  std::chrono::milliseconds pause{0};
  if (!arrived_) {
    pause = std::min(backoff_.pause(verdict.retry_after) + transport_.retries.take(), left);
  }
  report_retry(std::move(verdict.status), pause);
  if (operation_.watched != nullptr) operation_.watched->pausing = true;
  const bool slept = transport_.sleep(pause);
  if (operation_.watched != nullptr) operation_.watched->pausing = false;
  return slept ? Status() : transport_.interrupted();
}

void Attempts::report_retry(Status reason, std::chrono::milliseconds pause) {
  if (!source_.retried()) return;
  reason = loop_.from_endpoint(std::move(reason), operation_.location, who_);
  reason = std::move(reason).with_path(operation_.location.path);
  source_.retried()({.path = reason.detail().path,
                     .attempt = number_ + 1,
                     .pause = std::chrono::duration<double>(pause).count(),
                     .reason = reason});
}

// Seconds that the server may take to begin its response to a request that has been `failing` for
// so long: no longer than requests are retried, unless that is less than a stall takes.
int Attempts::time_to_begin(Clock::duration failing) const {
  const TransportSettings& settings = transport_.settings;
  const auto left = std::chrono::ceil<std::chrono::seconds>(settings.retry_timeout - failing);
  const int least = settings.low_speed_seconds;
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), least, std::int64_t{least} * kSlowBegin));
}

}  // namespace

Status OperationLoop::from_endpoint(Status status, const Location& location,
                                    const CredentialsRef& who) const {
  if (status.ok() || status.code() == Code::kCancelled) return status;
  const char* hint = standard_hint(status);
  return std::move(status)
      .with_endpoint(source_.protocol().endpoint(location, who.get()).shown())
      .with_hint(hint);
}

Status OperationLoop::perform(const Operation& operation, Response* response, ReadReport* report) {
  Attempts attempts(*this, source_, connection_, operation, response, report);
  Status status = attempts.run();
  return from_endpoint(std::move(status), operation.location, attempts.who());
}

}  // namespace streamer::http
