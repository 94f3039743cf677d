#include "source/http/redirects.h"

#include <algorithm>

#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/client/origin.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr int kMaxRedirects = 5;
constexpr std::chrono::seconds kRefusedAgain{5};

// scheme ":" at the front of a reference.
bool has_scheme(const std::string& link) {
  const std::size_t end =
      link.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
  const char first = link.empty() ? '\0' : static_cast<char>(link[0] | 0x20);
  return end != std::string::npos && link[end] == ':' && first >= 'a' && first <= 'z';
}

// An absolute path without the steps "." and "..".
std::string without_dots(std::string_view path) {
  std::string out;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/', 1), path.size());
    const std::string_view step = path.substr(0, end);
    const bool last = end == path.size();
    if (step == "/.." || step == "/.") {
      if (step == "/..") out.erase(std::min(out.rfind('/'), out.size()));
      if (last) out += '/';
    } else {
      out += step;
    }
    path.remove_prefix(end);
  }
  return out;
}

}  // namespace

std::string resolve_link(const Url& base, std::string link) {
  link = link.substr(0, link.find('#'));
  if (has_scheme(link)) return link;
  if (link.starts_with("//")) return base.scheme + ":" + link;
  if (link.empty()) return base.to_string();
  const std::size_t mark = std::min(link.find('?'), link.size());
  std::string path = link.substr(0, mark);
  const std::string query = link.substr(mark);
  if (path.empty()) return base.origin() + base.path + query;
  if (!path.starts_with('/')) path = base.path.substr(0, base.path.rfind('/') + 1) + path;
  if (!path.starts_with('/')) path.insert(0, "/");
  return base.origin() + without_dots(path) + query;
}

std::string encode_unsafe(const std::string& url) {
  return percent_encode(url, "%:/?#[]@!$&'()*+,;=");
}

std::string validator_of(const Response& response) {
  const std::string_view etag = response.header("etag");
  return std::string(etag.empty() ? response.header("last-modified") : etag);
}

void require_unchanged(Request* request, const std::string& validator) {
  // A weak ETag never matches; versions are compared with those of responses in any case.
  if (validator.starts_with('"')) {
    request->set("If-Match", validator);
  } else if (parse_http_date(validator)) {
    request->set("If-Unmodified-Since", validator);
  }
}

Result<std::uint64_t> read_whole_read_limit(const Settings& settings) {
  const auto limit = settings.number("RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT");
  if (!limit.ok()) return limit.status();
  return static_cast<std::uint64_t>(*limit);
}

Request Redirects::request(const std::string& asked, const CredentialsRef& credentials) const {
  Request request{.url = asked, .own_query = false};
  {
    const MutexLock lock(mutex_);
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
  error->decision = RetryDecision::kRetryAtOnce;
  return true;
}

void Redirects::follow(const std::string& requested, const Response& response, ServerError* error) {
  if (response.header("location").empty()) {
    error->message = "the server redirects without a URL";
    return;
  }
  const Result<Url> base = parse_url(response.url);
  const std::string link = encode_unsafe(std::string(response.header("location")));
  const Result<Url> target = base.ok() ? parse_url(resolve_link(*base, link)) : base;
  if (!target.ok()) {
    error->message = "the server redirects to an invalid URL";
    return;
  }
  if (base->scheme == "https" && target->scheme == "http") {
    error->message = "the server redirects from https to plain http, which is not followed";
    return;
  }
  if (is_inside(*target) && target->host != base->host) {
    error->message =
        "the server redirects to an address of this machine or link, which is not followed";
    return;
  }
  const MutexLock lock(mutex_);
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
  error->decision = RetryDecision::kFollow;
}

// False if that has just been tried.
bool Redirects::forget(const std::string& target) {
  const MutexLock lock(mutex_);
  const auto it = origins_.find(target);
  if (it == origins_.end()) return false;
  Redirect& redirect = redirects_[it->second];
  if (redirect.target != target) return true;  // another thread has changed it
  const Clock::time_point now = Clock::now();
  const bool again =
      redirect.forgotten != Clock::time_point{} && now - redirect.forgotten < kRefusedAgain;
  redirect.target.clear();
  redirect.forgotten = now;
  return !again;
}

}  // namespace streamer::http
