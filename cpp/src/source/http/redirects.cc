#include "source/http/redirects.h"

#include <algorithm>

#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/client/origin.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr std::int64_t kWholeReadLimit = 64 << 20;
constexpr int kMaxRedirects = 5;
constexpr std::chrono::seconds kRefusedAgain{5};

std::string resolve_link(const Url& base, const std::string& link) {
  if (link.find("://") != std::string::npos) return link;
  if (link.starts_with("//")) return base.scheme + ":" + link;
  if (link.starts_with('/')) return base.origin() + link;
  return base.origin() + base.path.substr(0, base.path.rfind('/') + 1) + link;
}

}  // namespace

std::string encode_unsafe(const std::string& url) {
  return percent_encode(url, "%:/?#[]@!$&'()*+,;=");
}

std::string validator_of(const Response& response) {
  const std::string_view etag = response.header("etag");
  return std::string(etag.empty() ? response.header("last-modified") : etag);
}

void require_unchanged(Request* request, const std::string& validator) {
  // A weak ETag never matches; versions are compared with those of answers all the same.
  if (validator.starts_with('"')) {
    request->set("If-Match", validator);
  } else if (parse_http_date(validator)) {
    request->set("If-Unmodified-Since", validator);
  }
}

Result<std::uint64_t> read_whole_read_limit(const Settings& settings) {
  const auto limit = settings.integer("RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT");
  if (!limit.ok()) return limit.status();
  return static_cast<std::uint64_t>(limit->value_or(kWholeReadLimit));
}

Request Redirects::request(const std::string& asked, const CredentialsRef& credentials) const {
  Request request{.url = asked, .own_query = false};
  {
    const std::lock_guard lock(mutex_);
    const auto it = redirects_.find(asked);
    if (it != redirects_.end() && !it->second.target.empty()) request.url = it->second.target;
  }
  if (!credentials || is_presigned(request.url)) return request;
  const Result<Url> target = parse_url(request.url);
  const Result<Url> own = parse_url(asked);
  if (!target.ok() || !own.ok() || !may_receive(Secret::kOneOrigin, *target, {*own, ""})) {
    return request;
  }
  if (const std::string value = value_of(*credentials, kAuthorization); !value.empty()) {
    request.set("Authorization", value);
  } else {
    set_bearer(&request, *credentials);
  }
  return request;
}

bool Redirects::handle(const std::string& requested, const Response& response, ServerError* error) {
  const int status = response.status;
  if (status >= 300 && status <= 399 && status != 304) {
    follow(requested, response, error);
    return true;
  }
  const bool refused = status == 401 || status == 403 || status == 404 || status == 410;
  if (!refused || !forget(response.url)) return false;
  error->verdict = Verdict::kAgain;
  return true;
}

void Redirects::follow(const std::string& requested, const Response& response, ServerError* error) {
  const Result<Url> base = parse_url(response.url);
  const std::string link = encode_unsafe(std::string(response.header("location")));
  const Result<Url> target = base.ok() ? parse_url(resolve_link(*base, link)) : base;
  if (!target.ok()) {
    error->message = "the server redirects to an address that makes no sense";
    return;
  }
  if (base->scheme == "https" && target->scheme == "http") {
    error->message = "the server redirects from https to plain http, which is not followed";
    return;
  }
  const std::lock_guard lock(mutex_);
  const auto it = origins_.find(response.url);
  const std::string asked = it == origins_.end() ? requested : it->second;
  Redirect& redirect = redirects_[asked];
  const bool stale = it != origins_.end() && redirect.target != response.url;
  if (!stale) {
    redirect.hops = it == origins_.end() ? 1 : redirect.hops + 1;
    if (redirect.hops > kMaxRedirects) {
      error->message = "the server redirects in circles";
      return;
    }
    redirect.target = target->to_string();
    if (redirect.target == asked) {
      error->message = "the server redirects in circles";
      redirect.target.clear();
      return;
    }
    origins_[redirect.target] = asked;
  }
  error->verdict = Verdict::kAgain;
}

// False where that has just been tried.
bool Redirects::forget(const std::string& target) {
  const std::lock_guard lock(mutex_);
  const auto it = origins_.find(target);
  if (it == origins_.end()) return false;
  Redirect& redirect = redirects_[it->second];
  if (redirect.target != target) return true;  // another thread was quicker
  const Clock::time_point now = Clock::now();
  const bool again =
      redirect.forgotten != Clock::time_point{} && now - redirect.forgotten < kRefusedAgain;
  redirect.target.clear();
  redirect.forgotten = now;
  return !again;
}

}  // namespace streamer::http
