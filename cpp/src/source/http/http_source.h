// The source of objects over HTTP, of every protocol.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/settings.h"
#include "source/http/client/connection.h"
#include "source/http/protocol.h"
#include "source/http/snapshot.h"
#include "source/http/verifier.h"
#include "source/source.h"

namespace streamer::http {

struct HttpSourceSettings {
  Verify verify = Verify::kCheap;
  bool stragglers = false;         // see SourceTraits
  bool require_validator = false;  // refuse objects whose content can't be pinned
  double target_rate = 0;          // see SourceTraits

  static Result<HttpSourceSettings> read(const Settings& settings);
};

class HttpSource : public Source {
 public:
  HttpSource(SourceKind kind, std::unique_ptr<Protocol> protocol, TransportSettings settings,
             const HttpSourceSettings& chosen, const SourceContext& context);
  const SourceTraits& traits() const override { return traits_; }
  Result<std::unique_ptr<Reader>> make_reader() override;
  Proximity proximity() const override { return {transport_.latency}; }

  const char* name() const { return source_kind_name(kind_); }
  const HttpSourceSettings& chosen() const { return chosen_; }
  void describe(std::map<std::string, std::string>* notes) const override {
    snapshot_.describe(notes);
    if (const std::uint64_t objects = verified_; objects > 0) {
      (*notes)["checksums"] = std::to_string(objects) + " objects match those of the server";
    }
  }
  std::atomic<std::uint64_t>* verified() { return &verified_; }
  // True once the storage has responded to any request.
  bool responded() const { return responded_.load(std::memory_order_relaxed); }
  void set_responded() { responded_.store(true, std::memory_order_relaxed); }
  // The storage has refused a request because of its rate.
  void refused() { refusals_->fetch_add(1, std::memory_order_relaxed); }
  // Takes note of an object that was opened. Not ok if the settings refuse it.
  Status note_opened(const Location& location, const Version& version, const Response& response);
  Transport& transport() { return transport_; }
  Protocol& protocol() { return *protocol_; }
  MemoryBudget* budget() { return budget_; }
  const std::function<void(const Retry&)>& retried() const { return retried_; }

 private:
  const SourceKind kind_;
  const HttpSourceSettings chosen_;
  Snapshot snapshot_;
  std::atomic<bool> responded_{false};
  std::atomic<std::uint64_t> verified_{0};  // objects
  const std::shared_ptr<std::atomic<std::uint64_t>> refusals_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
  Transport transport_;
  const std::unique_ptr<Protocol> protocol_;
  MemoryBudget* const budget_;
  const std::function<void(const Retry&)> retried_;  // may be empty
  SourceTraits traits_;
};

}  // namespace streamer::http
