// Credentials that are resolved once, shared by threads, and resolved again in time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "streamer/status.h"
#include "streamer/stream.h"

namespace streamer::http {

class Connection;
using CredentialsRef = std::shared_ptr<const Credentials>;

// Thread-safe. Calls its resolvers one at a time.
class CredentialsCache {
 public:
  // A protocol's own way to find credentials. An empty `values` is a valid answer: nobody.
  using Resolver = std::function<Result<Credentials>(const std::string& container, Connection&)>;

  // Asks `provider` first where there is one, and `own` where that has no answer. An answer without
  // the value `required` only adds to what `own` finds.
  CredentialsCache(SourceKind kind, CredentialsProvider provider, Resolver own,
                   std::string required = {})
      : kind_(kind),
        provider_(std::move(provider)),
        own_(std::move(own)),
        required_(std::move(required)) {}

  // What is valid now. Resolved again some minutes before it expires; a failure of that counts only
  // when it has expired.
  Result<CredentialsRef> get(const std::string& container, Connection& connection);
  // The server did not accept `used`: get() resolves anew unless another thread already has.
  void refused(const std::string& container, const CredentialsRef& used);

 private:
  struct Entry {
    CredentialsRef current;
    bool refresh = false;
    std::int64_t next_try = 0;  // after a failed refresh, seconds since the epoch
  };
  Result<Credentials> resolve(const std::string& container, bool refresh, Connection& connection);

  const SourceKind kind_;
  const CredentialsProvider provider_;
  const Resolver own_;
  const std::string required_;
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
};

}  // namespace streamer::http
