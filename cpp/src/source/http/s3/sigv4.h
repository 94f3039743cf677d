// AWS Signature Version 4, in the form of S3: the path is signed as it is sent.
#pragma once

#include <ctime>
#include <list>
#include <string>

#include "base/mutex.h"
#include "source/http/client/request.h"
#include "text/url.h"

namespace streamer::http {

// The digest of an empty body.
inline constexpr const char* kEmptySha256 =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct SigV4Scope {
  std::string access_key;
  std::string secret_key;
  std::string token;  // of a session; may be empty
  std::string token_header = "x-amz-security-token";
  std::string region = {};
  std::string service = "s3";
};

// Thread-safe. Keeps the signing keys of the last few secrets, days, regions and services.
class SigV4Signer {
 public:
  // Adds x-amz-date, x-amz-content-sha256 (`payload_hash`), the token and Authorization. Signs
  // these, Host and every header that the request has.
  void sign(Request* request, const Url& url, const SigV4Scope& scope, std::time_t now,
            const std::string& payload_hash = kEmptySha256);

 private:
  struct Cached {
    std::string secret, day, region, service, key;
  };
  std::string signing_key(const SigV4Scope& scope, const std::string& day) EXCLUDES(mutex_);

  Mutex mutex_;
  std::list<Cached> keys_ GUARDED_BY(mutex_);  // the last used first
};

}  // namespace streamer::http
