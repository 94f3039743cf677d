#include "source/http/client/addresses.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/blocked_signals.h"
#include "base/text.h"

namespace streamer::http {
namespace {

constexpr std::chrono::duration<double> kHalfLife = std::chrono::seconds(15);
constexpr double kMostFaults = 12;
// An address of the family that is not preferred counts as one with so many faults: it is used
// if the other family does not work.
constexpr double kOtherFamily = 6;
constexpr std::chrono::milliseconds kTick{20};

bool is_v6(const std::string& address) { return address.find(':') != std::string::npos; }

bool is_number(const std::string& host) {
  unsigned char bytes[16];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 || host.find(':') != std::string::npos;
}

// libcurl translates names of other scripts for the resolver.
bool is_ascii(const std::string& host) {
  return std::none_of(host.begin(), host.end(), [](char c) { return (c & 0x80) != 0; });
}

// libcurl knows its addresses without a resolver.
bool is_localhost(std::string host) {
  host = lower(host);
  if (host.ends_with('.')) host.pop_back();
  return host == "localhost" || host.ends_with(".localhost");
}

bool has_v6() {
  static const bool has = [] {
    const int probe = ::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe >= 0) ::close(probe);
    return probe >= 0;
  }();
  return has;
}

}  // namespace

void AddressTable::set(const std::vector<std::string>& addresses) {
  std::vector<Entry> entries;
  for (const std::string& address : addresses) {
    Entry entry;
    if (const Entry* known = find(address)) entry = *known;
    entry.address = address;
    entry.preferred = is_v6(address) == is_v6(addresses.front());
    const bool twice = std::any_of(entries.begin(), entries.end(),
                                   [&](const Entry& other) { return other.address == address; });
    if (!twice) entries.push_back(std::move(entry));
  }
  entries_ = std::move(entries);
}

double AddressTable::faults(const Entry& entry, TimePoint now) {
  const double age = std::max(0.0, seconds_between(entry.since, now));
  return entry.faults * std::exp2(-age / kHalfLife.count());
}

std::vector<std::string> AddressTable::order(TimePoint now) {
  std::vector<std::pair<double, const Entry*>> costs;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[(turn_ + i) % entries_.size()];
    const double doublings =
        std::min(faults(entry, now), kMostFaults) + (entry.preferred ? 0 : kOtherFamily);
    costs.emplace_back((entry.connections + 1) * std::exp2(doublings), &entry);
  }
  ++turn_;
  std::stable_sort(costs.begin(), costs.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> out;
  out.reserve(costs.size());
  for (const auto& [cost, entry] : costs) out.push_back(entry->address);
  return out;
}

AddressTable::Entry* AddressTable::find(const std::string& address) {
  for (Entry& entry : entries_) {
    if (entry.address == address) return &entry;
  }
  return nullptr;
}

void AddressTable::opened(const std::string& address) {
  if (Entry* entry = find(address)) ++entry->connections;
}

// The resolver may have dropped the address and brought it back: its connections are forgotten.
void AddressTable::closed(const std::string& address) {
  Entry* entry = find(address);
  if (entry != nullptr && entry->connections > 0) --entry->connections;
}

void AddressTable::add_faults(const std::string& address, double number, TimePoint now) {
  Entry* entry = find(address);
  if (entry == nullptr) return;
  entry->faults = std::min(faults(*entry, now) + number, kMostFaults);
  entry->since = now;
}

Addresses::Addresses(Resolver resolver)
    : resolver_(std::move(resolver)), state_(std::make_shared<State>()) {}

int Addresses::system_resolver(const std::string& host, std::vector<std::string>* addresses) {
  addrinfo hints{};
  hints.ai_family = has_v6() ? AF_UNSPEC : AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (error != 0) return error;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, &freeaddrinfo);
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) ==
        0) {
      addresses->emplace_back(text);
    }
  }
  return addresses->empty() ? EAI_NONAME : 0;
}

// The thread is left behind if no call waits for it any more: getaddrinfo() can't be interrupted.
// False: the system has no thread.
bool Addresses::ask(const std::string& host) {
  const auto resolve = [state = state_, resolver = resolver_, host] {
    std::vector<std::string> addresses;
    int error = EAI_MEMORY;
    try {
      error = resolver(host, &addresses);
    } catch (const std::bad_alloc&) {
    }
    const MutexLock lock(state->mutex);
    Host& entry = state->hosts[host];
    // If the resolver fails, the known addresses stay.
    if (error == 0 || entry.table.size() == 0) {
      entry.error = error;
      if (error == 0) entry.table.set(addresses);
    }
    entry.known = true;
    entry.asking = false;
    entry.answered = Clock::now();
    state->answered.notify_all();
  };
  const BlockedSignals blocked;
  try {
    std::thread(resolve).detach();
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

Addresses::Found Addresses::find(const std::string& host, Clock::time_point deadline,
                                 const std::function<bool()>& go_on) {
  if (is_number(host) || is_localhost(host) || !is_ascii(host)) return {};
  MutexLock lock(state_->mutex);
  Host& entry = state_->hosts[host];  // keeps its address
  const bool old = entry.known && Clock::now() - entry.answered >= kTimeToLive;
  // After a failure the resolver is asked again at once, as a retry expects.
  const bool failed = entry.known && entry.error != 0;
  if (!entry.asking && (!entry.known || old || failed)) {
    entry.asking = true;
    if (failed) entry.known = false;
    lock.unlock();
    const bool asked = ask(host);
    lock.lock();
    if (!asked) {
      entry.asking = false;
      if (!entry.known) return {};
    }
  }
  while (!entry.known) {
    if (Clock::now() >= deadline || !go_on()) return {.addresses = {}, .error = 0, .late = true};
    state_->answered.wait_until(state_->mutex, Clock::now() + kTick);
  }
  if (entry.error != 0) return {.addresses = {}, .error = entry.error, .late = false};
  Found found{.addresses = entry.table.order(Clock::now()), .error = 0, .late = false};
  // libcurl takes no zones.
  for (const std::string& address : found.addresses) {
    if (address.find('%') != std::string::npos) return {};
  }
  return found;
}

AddressLease Addresses::lease(const std::string& host, const std::string& address) {
  {
    const MutexLock lock(state_->mutex);
    state_->hosts[host].table.opened(address);
  }
  return {nullptr, [state = state_, host, address](const void*) {
            const MutexLock lock(state->mutex);
            state->hosts[host].table.closed(address);
          }};
}

void Addresses::failed(const std::string& host, const std::string& address) {
  const MutexLock lock(state_->mutex);
  state_->hosts[host].table.failed(address, Clock::now());
}

void Addresses::lagged(const std::string& host, const std::string& address) {
  const MutexLock lock(state_->mutex);
  state_->hosts[host].table.lagged(address, Clock::now());
}

}  // namespace streamer::http
