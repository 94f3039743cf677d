#include "source/http/client/connection.h"

#include <algorithm>
#include <new>

#include "source/http/client/attempt.h"
#include "source/http/client/curl_transfer.h"
#include "source/http/client/direct_transfer.h"
#include "source/http/client/origin.h"
#include "source/http/client/retry.h"

namespace streamer::http {
namespace {

constexpr std::size_t kServiceText = 1 << 20;
constexpr std::chrono::seconds kServiceTimeout{30};
constexpr int kProbes = 2;
constexpr int kAttemptsAtWrongName = 3;
constexpr std::chrono::milliseconds kLook{10};  // at the login of a proxy that another one tries

// A control character in a header could end it, and begin another.
Status check_headers(const Request& request) {
  for (const Header& header : request.headers) {
    const bool clean = std::none_of(header.value.begin(), header.value.end(), [](char c) {
      return static_cast<unsigned char>(c) < ' ' && c != '\t';
    });
    if (!clean) {
      return Status::error(Code::kCredentials,
                           "a control character would be sent in the header " + header.name)
          .with_hint("Look for a line break in the credentials, mostly at their end");
    }
  }
  return {};
}

}  // namespace

struct Connection::Impl {
  std::unique_ptr<CurlTransfer> any;  // made when it is needed: it takes descriptors
  DirectTransfer reads;
};

Connection::Connection(Transport& transport)
    : transport_(transport), impl_(std::make_unique<Impl>()) {}
Connection::~Connection() {
  impl_.reset();
  if (counted_ > 0) budget_->reader_ended(counted_);
}

void Connection::count_tls(const Request& request, const ProxyServer* proxy) {
  if (budget_ == nullptr) return;
  std::uint64_t bytes = request.url.starts_with("https://") ? kTlsBytes : 0;
  if (proxy != nullptr && proxy->url.scheme == "https") bytes += kTlsBytes;
  if (bytes <= counted_) return;
  budget_->take_for_reader(bytes - counted_);
  counted_ = bytes;
}

TransferResult Connection::perform(const Request& request, Response* response, BodySink* body,
                                   int retry_number) {
  *response = Response();
  response->url = request.url;
  response->signed_at = request.signed_at;
  if (body != nullptr) body->received = 0;
  if (Status status = transport_.interrupted(); !status.ok()) return {std::move(status)};
  if (Status status = check_headers(request); !status.ok()) return {std::move(status)};
  if (!transport_.settings.plain_tokens) {
    if (Status status = check_plaintext(request); !status.ok()) return {std::move(status)};
  }
  const Result<std::optional<ProxyServer>> proxy = proxy_for(request);
  if (!proxy.ok()) return {proxy.status()};
  if (!*proxy) return this->attempt(request, nullptr, response, body, retry_number);
  const ProxyServer& server = **proxy;
  if (!server.has_login()) return this->attempt(request, &server, response, body, retry_number);

  using State = ProxyLogins::State;
  ProxyLogins::Refusal refusal;
  State known = transport_.logins.begin(server.text, &refusal);
  while (known == State::kTried) {
    if (!transport_.sleep(kLook)) return {transport_.interrupted()};
    known = transport_.logins.begin(server.text, &refusal);
  }
  if (known == State::kRefused) {
    response->status = refusal.response.status;
    response->headers = std::move(refusal.response.headers);
    response->body = std::move(refusal.response.body);
    return std::move(refusal.outcome);
  }
  try {
    TransferResult outcome = this->attempt(request, &server, response, body, retry_number);
    if (outcome.login_refused || response->status == 407) {
      transport_.logins.ended(server.text, State::kRefused, {outcome, *response});
    } else if (known == State::kUnknown) {
      transport_.logins.ended(server.text,
                              response->status > 0 ? State::kAccepted : State::kUnknown);
    }
    return outcome;
  } catch (const std::bad_alloc&) {  // the others wait for the end of the first request
    if (known == State::kUnknown) transport_.logins.ended(server.text, State::kUnknown);
    throw;
  }
}

TransferResult Connection::attempt(const Request& request, const ProxyServer* proxy,
                                   Response* response, BodySink* body, int retry_number) {
  count_tls(request, proxy);
  Attempt attempt(&transport_, response, body, request);
  TransferTimes times;
  const Clock::time_point start = Clock::now();
  const bool direct = DirectTransfer::serves(request, proxy, attempt);
  if (!direct && impl_->any == nullptr) impl_->any = std::make_unique<CurlTransfer>();
  TransferResult outcome = direct ? impl_->reads.perform(request, proxy, &attempt, &times)
                                  : impl_->any->perform(request, proxy, &attempt, &times);
  if (attempt.ended_early) {
    outcome = {};
  } else if (!attempt.abort.ok()) {
    outcome = {std::move(attempt.abort)};
  } else if (Status status = transport_.interrupted(); !status.ok() && !outcome.status.ok()) {
    outcome = {std::move(status)};
  }
  response->seconds = seconds_between(start, Clock::now());
  response->waited = times.first_byte;
  if (response->status > 0) {
    transport_.reached.store(true, std::memory_order_relaxed);
    if (body != nullptr) transport_.note_latency(response->waited);
  }

  if (transport_.trace.on()) {
    const std::string error = outcome.status.detail().message;
    transport_.trace.write({.request = &request,
                            .response = response,
                            .error = error,
                            .bytes = attempt.bytes,
                            .connection = times.connection,
                            .reused = times.reused,
                            .retry = retry_number});
  }
  return outcome;
}

Result<Response> Connection::fetch(Request request, Persistence persistence) {
  request.text_limit = kServiceText;
  Backoff backoff(transport_.settings.max_attempts);
  const Clock::time_point start = Clock::now();
  for (int retry = 0;; ++retry) {
    Response response;
    TransferResult outcome = perform(request, &response, nullptr, retry);
    const bool busy = response.status == 429 ||
                      (response.status >= 500 && response.status != 501 && response.status != 505);
    if (outcome.status.ok() && !busy) return response;
    if (!outcome.status.ok() && !outcome.retry) return outcome.status;
    int limit = 0;
    if (!outcome.status.ok()) {
      const bool late = outcome.refused || outcome.status.code() == Code::kTimeout;
      if (persistence == Persistence::kProbe) {
        limit = kProbes;
      } else if (outcome.unreachable && !late) {
        limit = kAttemptsAtWrongName;
      }
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(start + kServiceTimeout - Clock::now());
    if (!backoff.another(limit) || left <= std::chrono::milliseconds(0)) {
      if (outcome.status.ok()) return response;
      return outcome.status;
    }
    const auto pause = backoff.pause(parse_retry_after(response.header("retry-after")));
    if (!transport_.sleep(std::min(pause, left))) {
      return transport_.interrupted();
    }
  }
}

}  // namespace streamer::http
