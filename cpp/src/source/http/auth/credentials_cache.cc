#include "source/http/auth/credentials_cache.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>

#include "base/interrupt_poll.h"
#include "source/http/client/connection.h"

namespace streamer::http {
namespace {

constexpr std::int64_t kRefreshAhead =
    5 * 60;                                 // seconds before they expire, or a fifth of their life
constexpr std::int64_t kRetryRefresh = 15;  // seconds after a refresh that failed
constexpr std::int64_t kLeastLifetime = 60;

}  // namespace

std::string value_of(const Credentials& credentials, const char* name) {
  const auto it = credentials.values.find(name);
  return it == credentials.values.end() ? std::string() : it->second;
}

std::int64_t CredentialsCache::system_clock() { return std::time(nullptr); }

// The embedder's provider may throw: its exceptions are errors like others.
Result<Credentials> CredentialsCache::resolve(const std::string& container, bool refresh,
                                              Connection& connection) try {
  if (!provider_) return own_(container, connection);
  Result<Credentials> given = provider_({kind_, container, refresh});
  if (!given.ok()) return given;
  const bool enough =
      required_.empty() ? !given->values.empty() : given->values.contains(required_);
  if (enough) return given;
  Result<Credentials> own = own_(container, connection);
  if (own.ok()) {
    for (auto& [name, value] : given->values) own->values[name] = std::move(value);
  }
  return own;
} catch (const std::exception& error) {
  return Status::error(Code::kCredentials, std::string("no credentials: ") + error.what());
}

bool CredentialsCache::Entry::valid(std::int64_t now) const {
  return current && !refresh && (valid_until == 0 || valid_until > now);
}

bool CredentialsCache::Entry::expiring(std::int64_t now) const {
  return valid_until != 0 && refresh_at <= now;
}

Result<CredentialsRef> CredentialsCache::get(const std::string& container, Connection& connection) {
  MutexLock lock(mutex_);
  Entry& entry = entries_[container];
  const int failures = entry.failures;
  for (;;) {
    const std::int64_t now = clock_();
    if (entry.valid(now) && (resolving_ || !entry.expiring(now))) return entry.current;
    if (!resolving_) break;
    resolved_.wait_until(mutex_, streamer::Clock::now() + kInterruptPoll);
    // Another thread has called the resolvers meanwhile, without success.
    if (!resolving_ && entry.failures != failures && !entry.valid(clock_())) return entry.failure;
    if (Status status = connection.transport().interrupted(); !status.ok()) return status;
  }

  resolving_ = true;
  const bool again = entry.current != nullptr;
  lock.unlock();
  Result<Credentials> fresh = resolve(container, again, connection);
  lock.lock();
  resolving_ = false;
  resolved_.notify_all();
  const std::int64_t now = clock_();
  if (!fresh.ok()) {
    entry.refresh_at = now + kRetryRefresh;
    if (entry.valid(now)) return entry.current;
    ++entry.failures;
    entry.failure = fresh.status();
    return fresh.status();
  }
  // If credentials have expired when they are issued, this machine's clock is ahead. They are used
  // for a while, so that not every request calls the resolvers again.
  const std::int64_t lifetime = fresh->expires_at - now;
  entry.valid_until = fresh->expires_at;
  if (fresh->expires_at != 0 && lifetime < 0) entry.valid_until = now + kLeastLifetime;
  // A resolver may return the same credentials until they expire; do not call it for every request.
  entry.refresh_at =
      std::max(fresh->expires_at - std::min(kRefreshAhead, lifetime / 5), now + kRetryRefresh);
  entry.refresh = false;
  entry.current = std::make_shared<const Credentials>(std::move(*fresh));
  return entry.current;
}

void CredentialsCache::refused(const std::string& container, const CredentialsRef& used) {
  const MutexLock lock(mutex_);
  Entry& entry = entries_[container];
  if (entry.current == used) entry.refresh = true;
}

}  // namespace streamer::http
