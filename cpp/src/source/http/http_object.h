// An object that was opened over HTTP.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "source/http/content_check.h"
#include "source/http/content_samples.h"
#include "source/http/protocol.h"
#include "source/source.h"

namespace streamer::http {

// The comparison of an object with a checksum that needs a request of its own. Thread-safe.
class CheckLater {
 public:
  // True if the caller must make the request, and then call answer().
  bool claim() { return !claimed_.exchange(true, std::memory_order_relaxed); }
  void answer(const std::optional<Checksum>& checksum, ContentCheck* check) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (checksum) check->expect(*checksum);
    state_ = checksum ? State::kKnown : State::kNone;
    answered_.notify_all();
  }
  // True if there is an answer, and it is a checksum.
  bool known_now() const EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return state_ == State::kKnown;
  }
  // Waits for the answer: true if it is a checksum.
  bool known() EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    while (state_ == State::kAsked) answered_.wait(mutex_);
    return state_ == State::kKnown;
  }

 private:
  enum class State { kAsked, kKnown, kNone };
  std::atomic<bool> claimed_{false};
  mutable Mutex mutex_;
  CondVar answered_;
  State state_ GUARDED_BY(mutex_) = State::kAsked;
};

class HttpObject : public Object {
 public:
  // `check` is null if nothing is compared. `later`: the checksum is not known yet. `samples` is
  // null if the version pins the content.
  HttpObject(Location location, std::uint64_t size, Version version,
             std::unique_ptr<ContentCheck> check, bool later,
             std::unique_ptr<ContentSamples> samples)
      : Object(location.path, size, version.validator),
        location_(std::move(location)),
        pinned_(std::move(version)),
        check_(std::move(check)),
        later_(later ? std::make_unique<CheckLater>() : nullptr),
        samples_(std::move(samples)) {}
  const Location& location() const { return location_; }
  Version pinned() const {
    Version version = pinned_;
    version.by_id |= replaced_.load(std::memory_order_relaxed);
    return version;
  }
  // True if the path names the version.
  bool names_version() const { return pinned_.by_id; }
  // Something else has the object's name by now: later reads ask for the version by its id.
  void note_replaced() const { replaced_.store(true, std::memory_order_relaxed); }
  ContentCheck* check() const { return check_.get(); }
  CheckLater* later() const { return later_.get(); }
  ContentSamples* samples() const { return samples_.get(); }
  // The checksum for check() is known; waits for it if a request for it is in flight.
  bool checksum_known() const { return later_ == nullptr || later_->known(); }
  // True if a read from `offset` on may add up the bytes that arrive.
  bool can_add_up(std::uint64_t offset) const {
    return check_ != nullptr && check_->behind_prefix(offset) &&
           (later_ == nullptr || later_->known_now());
  }

 private:
  const Location location_;
  const Version pinned_;
  mutable std::atomic<bool> replaced_{false};
  const std::unique_ptr<ContentCheck> check_;
  const std::unique_ptr<CheckLater> later_;
  const std::unique_ptr<ContentSamples> samples_;
};

}  // namespace streamer::http
