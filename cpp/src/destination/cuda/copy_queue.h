// Asynchronous copies from pinned slots to device memory, and the thread that polls for their end.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "destination/cuda/context.h"
#include "destination/cuda/pinned_pool.h"

namespace streamer::gpu {

// Thread-safe. Copies run on streams of its own; their ends are polled by one thread, which gives
// slots back to the pool and calls `done`.
class CopyQueue {
 public:
  using Done = std::function<void(Status)>;

  // A copy that is not done `timeout` after it could start is an error; the work that the streams
  // of the caller hold before it has no deadline. Such a copy may still write later: its `done`
  // is called but never destroyed, so that it keeps alive what it owns.
  static Result<std::unique_ptr<CopyQueue>> create(const DeviceContext& context, PinnedPool& pool,
                                                   std::chrono::seconds timeout);
  // Waits for copies that are in flight.
  ~CopyQueue();
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  // Copies that are given from now on start after the work that the caller's `stream` holds now.
  Status fence(CopyStream stream);
  // Waits until the work that the caller's `stream` holds now is done.
  Status wait_for(CopyStream stream);
  // Copies consecutive bytes of the slot to `segments`; takes over the slot. Does not block.
  void copy(PinnedSlot* slot, std::span<const iovec> segments, Done done);

 private:
  struct Pending {
    PinnedSlot* slot = nullptr;
    Status status;  // reported when the copies have ended
    Done done;
    Clock::time_point since;
  };
  struct Lane {
    CopyStream stream = nullptr;
    std::list<Pending> pending;  // the polling thread's, in the order in which they end
  };
  // Copies that may never end, for as long as the process lives.
  struct GivenUp {
    Mutex mutex;
    std::list<Pending> copies GUARDED_BY(mutex);
  };
  static GivenUp& given_up();

  CopyQueue(const DeviceContext& context, PinnedPool& pool, std::chrono::seconds timeout);
  Status start();
  Status enqueue(PinnedSlot& slot, CopyStream stream, std::span<const iovec> segments);
  void poll();
  bool poll_lane(Lane& lane);
  void look_at_fence() EXCLUDES(fence_mutex_);
  void finish(const Pending& pending, const Status& status);
  void lose(int code);
  void give_up_all(const Status& status);
  Status failure() const EXCLUDES(mutex_);
  Status fail(Status status) EXCLUDES(mutex_);

  const DeviceContext& context_;
  PinnedPool& pool_;
  const std::chrono::seconds timeout_;
  std::vector<Lane> lanes_;
  Mutex fence_mutex_;  // held while the fence is recorded, waited for and looked at
  Event fence_ = nullptr;
  bool fenced_ GUARDED_BY(fence_mutex_) = false;  // the caller's stream may not have passed it
  Clock::time_point looked_;                      // the polling thread's: at the fence

  mutable Mutex mutex_;
  CondVar wake_;
  std::list<Pending> incoming_ GUARDED_BY(mutex_);  // nodes move, so that nothing is allocated
  bool stopping_ GUARDED_BY(mutex_) = false;
  Status failure_ GUARDED_BY(mutex_);  // of the whole device
  bool stuck_ = false;  // the polling thread's: a copy did not end, streams can't be destroyed
  std::thread thread_;
};

}  // namespace streamer::gpu
