// Credentials that are resolved once, shared by threads, and resolved again in time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

class Connection;
using CredentialsRef = std::shared_ptr<const Credentials>;

// A value of credentials; empty if there is none.
std::string value_of(const Credentials& credentials, const char* name);

// Thread-safe. Calls its resolvers one at a time and without a lock: meanwhile other threads get
// credentials that are still valid, and wait if there are none.
class CredentialsCache {
 public:
  // Seconds since the epoch.
  using Clock = std::function<std::int64_t()>;
  // A protocol's own way to find credentials. An empty `values` is valid: no identity.
  using Resolver = std::function<Result<Credentials>(const std::string& container, Connection&)>;

  // Calls `provider` first if there is one, and `own` if that finds none. An identity without the
  // value `required` only adds to the values that `own` finds.
  CredentialsCache(SourceKind kind, CredentialsProvider provider, Resolver own,
                   std::string required = {}, Clock clock = system_clock)
      : kind_(kind),
        provider_(std::move(provider)),
        own_(std::move(own)),
        required_(std::move(required)),
        clock_(std::move(clock)) {}

  // The credentials that are valid now. Resolved again some minutes before they expire; a failure
  // of that counts only when they have expired.
  Result<CredentialsRef> get(const std::string& container, Connection& connection) EXCLUDES(mutex_);
  // The server did not accept `used`: get() resolves anew unless another thread already has.
  void refused(const std::string& container, const CredentialsRef& used) EXCLUDES(mutex_);

 private:
  struct Entry {
    CredentialsRef current;
    bool refresh = false;
    std::int64_t valid_until = 0;  // seconds since the epoch; 0: for ever
    std::int64_t refresh_at = 0;   // likewise
    int failures = 0;              // of the resolver
    Status failure;                // the last of them

    bool valid(std::int64_t now) const;
    bool expiring(std::int64_t now) const;
  };
  static std::int64_t system_clock();
  Result<Credentials> resolve(const std::string& container, bool refresh, Connection& connection);

  const SourceKind kind_;
  const CredentialsProvider provider_;
  const Resolver own_;
  const std::string required_;
  const Clock clock_;
  Mutex mutex_;
  CondVar resolved_;
  bool resolving_ GUARDED_BY(mutex_) = false;
  std::map<std::string, Entry> entries_ GUARDED_BY(mutex_);
};

}  // namespace streamer::http
