// The choice of a host's address for a new connection.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"

namespace streamer::http {

// The addresses of one host. A new connection goes to the one with the fewest connections; each
// recent fault of an address counts as if its connections were twice as many. Faults fade, so that
// an address that has recovered is used again, and do not matter if all addresses have as many.
// Not thread-safe; reads no clock.
class AddressTable {
 public:
  using TimePoint = Clock::time_point;
  // The addresses of the resolver, the preferred family first. The records of addresses that stay
  // are kept.
  void set(const std::vector<std::string>& addresses);
  std::size_t size() const { return entries_.size(); }
  // All of them, the best one first.
  std::vector<std::string> order(TimePoint now);
  void opened(const std::string& address);
  void closed(const std::string& address);
  // No connection could be made.
  void failed(const std::string& address, TimePoint now) { add_faults(address, 4, now); }
  // A transfer broke, stalled, or was far slower than others.
  void lagged(const std::string& address, TimePoint now) { add_faults(address, 1, now); }

 private:
  struct Entry {
    std::string address;
    bool preferred = true;  // of the family that the resolver puts first
    int connections = 0;
    double faults = 0;  // at `since`
    TimePoint since{};
  };
  static double faults(const Entry& entry, TimePoint now);
  Entry* find(const std::string& address);
  void add_faults(const std::string& address, double number, TimePoint now);

  std::vector<Entry> entries_;
  std::size_t turn_ = 0;  // of equal ones, the first
};

// A connection to an address, while it lives. It may outlive the Addresses.
using AddressLease = std::shared_ptr<const void>;

// The addresses of all hosts that a source connects to. Thread-safe.
class Addresses {
 public:
  // The numeric addresses of a host, or a code of getaddrinfo() other than 0. May block.
  using Resolver = std::function<int(const std::string& host, std::vector<std::string>* addresses)>;

  explicit Addresses(Resolver resolver = &system_resolver);

  struct Found {
    std::vector<std::string> addresses;  // the best one first; empty: libcurl is to resolve
    int error = 0;                       // of the resolver: a code of getaddrinfo()
    bool late = false;  // it did not respond until `deadline`, or `go_on` was false
  };
  // Asks the resolver in a thread of its own when the host is new, and again (without waiting for
  // the answer) when the last one is older than kTimeToLive. getaddrinfo() does not tell the time
  // to live of its answers; those of object storage live for seconds. Waits until `deadline`, while
  // `go_on` is true.
  Found find(const std::string& host, Clock::time_point deadline,
             const std::function<bool()>& go_on);

  AddressLease lease(const std::string& host, const std::string& address);
  void failed(const std::string& host, const std::string& address);
  void lagged(const std::string& host, const std::string& address);

  static constexpr std::chrono::seconds kTimeToLive{10};
  static int system_resolver(const std::string& host, std::vector<std::string>* addresses);

 private:
  struct Host {
    AddressTable table;
    bool asking = false;
    bool known = false;  // the resolver has responded, `error` included
    int error = 0;
    Clock::time_point answered{};
  };
  // Shared with the threads that resolve, and with leases.
  struct State {
    Mutex mutex;
    CondVar answered;
    std::map<std::string, Host> hosts GUARDED_BY(mutex);
  };
  bool ask(const std::string& host);

  const Resolver resolver_;
  const std::shared_ptr<State> state_;
};

}  // namespace streamer::http
