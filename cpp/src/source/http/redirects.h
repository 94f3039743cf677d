// Servers that redirect, and files of plain web servers.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/settings.h"
#include "source/http/protocol.h"
#include "text/url.h"

namespace streamer::http {

// The value of the header Authorization, in Credentials::values.
inline constexpr const char* kAuthorization = "authorization";

// People paste URLs with spaces and letters of their language.
std::string encode_unsafe(const std::string& url);

// The URL that a reference in a response from `base` means (RFC 3986, 5.2), without a fragment.
std::string resolve_link(const Url& base, std::string link);

// The validator of a file: its ETag, or the time of its last change.
std::string validator_of(const Response& response);
// Makes the request fail if the file is another by now, as far as headers can.
void require_unchanged(Request* request, const std::string& validator);

// RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT: the size that may be read from servers without ranges.
Result<std::uint64_t> read_whole_read_limit(const Settings& settings);

// Remembers redirects, so that later ranges go to the target of the first one. Thread-safe.
class Redirects {
 public:
  // A request for `asked`, or for the target of its redirect. Only the origin of `asked` receives
  // credentials, and not if the URL grants access by itself.
  Request request(const std::string& asked, const CredentialsRef& credentials) const
      EXCLUDES(mutex_);

  // True if `response` is a redirect (later requests for the same thing ask for `requested`), or a
  // refusal by the target of an earlier one: its signature may have expired. Then `error` has the
  // decision.
  bool handle(const std::string& requested, const Response& response, ServerError* error)
      EXCLUDES(mutex_);

 private:
  struct Redirect {
    std::string target;  // empty: forgotten
    int hops = 0;
    Clock::time_point forgotten{};
  };
  void follow(const std::string& requested, const Response& response, ServerError* error)
      EXCLUDES(mutex_);
  bool forget(const std::string& target) EXCLUDES(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, Redirect> redirects_ GUARDED_BY(mutex_);  // by the URL that was asked for
  std::map<std::string, std::string> origins_
      GUARDED_BY(mutex_);  // of targets: the URL that was asked for
};

}  // namespace streamer::http
