#include "destination/cuda/copy_queue.h"

#include <sys/prctl.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/blocked_signals.h"

namespace streamer::gpu {
namespace {

// More than one, so that the next copy is ready to start when one ends.
constexpr std::size_t kLanes = 4;
constexpr std::chrono::microseconds kShortestSleep{20};
constexpr std::chrono::microseconds kLongestSleep{200};
constexpr std::chrono::milliseconds kLookAtFence{10};

}  // namespace

CopyQueue::CopyQueue(const DeviceContext& context, PinnedPool& pool, std::chrono::seconds timeout)
    : context_(context), pool_(pool), timeout_(timeout), lanes_(kLanes) {}

Result<std::unique_ptr<CopyQueue>> CopyQueue::create(const DeviceContext& context, PinnedPool& pool,
                                                     std::chrono::seconds timeout) {
  std::unique_ptr<CopyQueue> queue(new CopyQueue(context, pool, timeout));
  if (Status status = queue->start(); !status.ok()) return status;
  return queue;
}

Status CopyQueue::start() {
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  int code = guard.code();
  if (code == kSuccess) code = driver.event_create(&fence_, kEventDisableTiming);
  for (Lane& lane : lanes_) {
    if (code == kSuccess) code = driver.stream_create(&lane.stream, kStreamNonBlocking);
  }
  if (code != kSuccess) return driver.error(code, "no copy stream on " + context_.name());
  const BlockedSignals blocked;
  try {
    thread_ = std::thread([this] { poll(); });
  } catch (const std::system_error& error) {
    return Status::error(Code::kOutOfMemory,
                         "the system has no thread for copies to " + context_.name())
        .with_errno(error.code().value())
        .with_hint("Raise the limit of processes (ulimit -u) or of the cgroup (pids.max)");
  }
  return {};
}

CopyQueue::~CopyQueue() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  if (stuck_) return;
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  for (Lane& lane : lanes_) {
    if (lane.stream != nullptr) driver.stream_destroy(lane.stream);
  }
  if (fence_ != nullptr) driver.event_destroy(fence_);
}

Status CopyQueue::failure() const {
  const MutexLock lock(mutex_);
  return failure_;
}

// From now on every copy fails with `status`, unless another failure came first.
Status CopyQueue::fail(Status status) {
  status = std::move(status).with_hint(kStickyHint);
  Status first;
  {
    const MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = std::move(status);
    first = failure_;
  }
  pool_.fail(first);
  return first;
}

Status CopyQueue::fence(CopyStream stream) {
  if (Status status = failure(); !status.ok()) return status;
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  const MutexLock lock(fence_mutex_);
  int code = guard.code();
  int capturing = 0;
  if (code == kSuccess) code = driver.stream_is_capturing(stream, &capturing);
  if (capturing != 0) {
    return Status::error(Code::kDevice, "the caller's stream on " + context_.name() +
                                            " is capturing a graph, of which a load can't be part")
        .with_hint("Load before the capture, or under another stream");
  }
  if (code == kSuccess) code = driver.event_record(fence_, stream);
  fenced_ = fenced_ || code == kSuccess;
  for (Lane& lane : lanes_) {
    if (code == kSuccess) code = driver.stream_wait(lane.stream, fence_, 0);
  }
  if (code == kSuccess) return {};
  return driver.error(code, "the caller's stream on " + context_.name() + " can't be waited for");
}

Status CopyQueue::wait_for(CopyStream stream) {
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  int code = guard.code();
  if (code == kSuccess) code = driver.stream_synchronize(stream);
  if (code == kSuccess) return {};
  return driver.error(code, "the caller's stream on " + context_.name() + " can't be waited for");
}

Status CopyQueue::enqueue(PinnedSlot& slot, CopyStream stream, std::span<const iovec> segments) {
  const Driver& driver = context_.driver();
  const std::byte* from = slot.memory + slot.start;
  for (std::size_t i = 0; i < segments.size();) {
    auto* const to = static_cast<std::byte*>(segments[i].iov_base);
    std::size_t bytes = segments[i].iov_len;
    // Bytes that are consecutive in the slot and on the device are one copy.
    for (++i; i < segments.size() && segments[i].iov_base == to + bytes; ++i) {
      bytes += segments[i].iov_len;
    }
    if (bytes == 0) continue;
    const int code =
        driver.copy_to_device(reinterpret_cast<DevicePointer>(to), from, bytes, stream);
    if (code != kSuccess) {
      Status status = driver
                          .error(code, "a copy of " + std::to_string(bytes) + " bytes to " +
                                           context_.name() + " failed")
                          .with_device_fault(DeviceFault::kTransfer);
      // A bad address affects one range; any other error ends the context of the device.
      return code == kInvalidValue ? status : fail(std::move(status));
    }
    from += bytes;
  }
  return {};
}

void CopyQueue::copy(PinnedSlot* slot, std::span<const iovec> segments, Done done) {
  std::list<Pending> entry(1);  // all that may throw comes before the copy
  if (Status status = failure(); !status.ok()) {
    pool_.give_back(slot);
    done(status);
    return;
  }
  pool_.copying(*slot);
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  Status status;
  if (guard.code() != kSuccess) {
    status = fail(driver.error(guard.code(), "the context of " + context_.name() + " can't be used")
                      .with_device_fault(DeviceFault::kTransfer));
    pool_.give_back(slot);
    done(status);
    return;
  }
  const CopyStream stream = lanes_[slot->lane % lanes_.size()].stream;
  status = enqueue(*slot, stream, segments);
  // Also after an error: earlier copies may be in flight, and use the slot until they end.
  if (const int code = driver.event_record(slot->event, stream); code != kSuccess) {
    Status lost = fail(driver.error(code, "copies to " + context_.name() + " can't be followed")
                           .with_device_fault(DeviceFault::kTransfer));
    driver.stream_synchronize(stream);
    pool_.give_back(slot);
    done(status.ok() ? lost : status);
    return;
  }
  entry.front() = {slot, std::move(status), std::move(done), Clock::now()};
  {
    const MutexLock lock(mutex_);
    incoming_.splice(incoming_.end(), entry);
  }
  wake_.notify_one();
}

void CopyQueue::finish(const Pending& pending, const Status& status) {
  pool_.give_back(pending.slot);
  pending.done(pending.status.ok() ? status : pending.status);
}

// The driver no longer reports the ends of copies.
void CopyQueue::lose(int code) {
  const Driver& driver = context_.driver();
  const Status status = fail(driver.error(code, "copies to " + context_.name() + " failed")
                                 .with_device_fault(DeviceFault::kTransfer));
  for (Lane& lane : lanes_) {
    driver.stream_synchronize(lane.stream);  // returns: either all is done, or the context is gone
    while (!lane.pending.empty()) {
      const Pending pending = std::move(lane.pending.front());
      lane.pending.pop_front();
      finish(pending, status);
    }
  }
}

CopyQueue::GivenUp& CopyQueue::given_up() {
  static auto* const all = new GivenUp;
  return *all;
}

void CopyQueue::give_up_all(const Status& status) {
  stuck_ = true;
  for (Lane& lane : lanes_) {
    for (const Pending& pending : lane.pending) {
      pool_.give_up(pending.slot);
      pending.done(pending.status.ok() ? status : pending.status);
    }
    GivenUp& all = given_up();
    const MutexLock lock(all.mutex);
    all.copies.splice(all.copies.end(), lane.pending);
  }
}

// No copy behind the fence can start before the caller's stream has passed it.
void CopyQueue::look_at_fence() {
  const Clock::time_point now = Clock::now();
  if (now - looked_ < kLookAtFence) return;
  looked_ = now;
  const MutexLock lock(fence_mutex_);
  if (!fenced_) return;
  fenced_ = context_.driver().event_query(fence_) == kNotReady;
  if (!fenced_) return;
  for (Lane& lane : lanes_) {
    for (Pending& pending : lane.pending) pending.since = now;
  }
}

// True if a copy ended.
bool CopyQueue::poll_lane(Lane& lane) {
  bool progress = false;
  while (!lane.pending.empty()) {
    const int code = context_.driver().event_query(lane.pending.front().slot->event);
    if (code == kSuccess) {
      const Pending pending = std::move(lane.pending.front());
      lane.pending.pop_front();
      finish(pending, {});
      progress = true;
      continue;
    }
    if (code != kNotReady) {
      lose(code);
      return true;
    }
    if (Clock::now() - lane.pending.front().since > timeout_) {
      Status late =
          Status::error(Code::kTimeout, "a copy to " + context_.name() + " did not end within " +
                                            std::to_string(timeout_.count()) + " seconds")
              .with_device_fault(DeviceFault::kTransfer)
              .with_hint("RUNAI_STREAMER_CUDA_TIMEOUT sets the time");
      give_up_all(fail(std::move(late)));
      return true;
    }
    break;
  }
  return progress;
}

void CopyQueue::poll() {
  prctl(PR_SET_NAME, "streamer-copies");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // nanoseconds: short sleeps are short
  const Driver& driver = context_.driver();
  const ContextGuard guard(driver, context_.handle());
  auto sleep = kShortestSleep;
  for (;;) {
    const bool idle = std::all_of(lanes_.begin(), lanes_.end(),
                                  [](const Lane& lane) { return lane.pending.empty(); });
    std::list<Pending> arrived;
    {
      const MutexLock lock(mutex_);
      while (idle && !stopping_ && incoming_.empty()) wake_.wait(mutex_);
      arrived.swap(incoming_);
      if (idle && stopping_ && arrived.empty()) return;
    }
    bool progress = !arrived.empty();
    while (!arrived.empty()) {
      std::list<Pending>& lane = lanes_[arrived.front().slot->lane % lanes_.size()].pending;
      lane.splice(lane.end(), arrived, arrived.begin());
    }
    if (!idle) look_at_fence();
    for (Lane& lane : lanes_) progress = poll_lane(lane) || progress;
    if (progress) {
      sleep = kShortestSleep;
      continue;
    }
    std::this_thread::sleep_for(sleep);
    sleep = std::min(sleep * 2, kLongestSleep);
  }
}

}  // namespace streamer::gpu
