// Asynchronous copies from pinned slots to device memory, and the thread that sees them end.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "destination/cuda/context.h"
#include "destination/cuda/pinned_pool.h"

namespace streamer::gpu {

// Thread-safe. Copies run on streams of its own; their ends are polled by one thread, which gives
// slots back to the pool and calls `done`.
class CopyQueue {
 public:
  using Done = std::function<void(Status)>;

  // A copy that is not done `patience` after it was given is an error.
  static Result<std::unique_ptr<CopyQueue>> create(const DeviceContext& context, PinnedPool& pool,
                                                   std::chrono::seconds patience);
  // Waits for copies that are under way.
  ~CopyQueue();
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  // Copies that are given from now on start after what `stream` of the caller's holds now.
  Status fence(CopyStream stream);
  // Waits until what `stream` of the caller's holds now is done.
  Status wait_for(CopyStream stream);
  // Copies consecutive bytes of the slot to `segments`; takes over the slot. Does not block.
  void copy(PinnedSlot* slot, std::span<const iovec> segments, Done done);

 private:
  struct Pending {
    PinnedSlot* slot;
    Status status;  // what is reported when the copies have ended
    Done done;
    Clock::time_point since;
  };
  struct Lane {
    CopyStream stream = nullptr;
    std::deque<Pending> pending;  // the polling thread's, in the order in which they end
  };

  CopyQueue(const DeviceContext& context, PinnedPool& pool, std::chrono::seconds patience);
  Status start();
  Status enqueue(PinnedSlot& slot, CopyStream stream, std::span<const iovec> segments);
  void poll();
  bool poll_lane(Lane& lane);
  void finish(const Pending& pending, const Status& status);
  void lose(int code);
  void give_up_all(const Status& status);
  Status failure() const;
  Status fail(Status status);

  const DeviceContext& context_;
  PinnedPool& pool_;
  const std::chrono::seconds patience_;
  std::vector<Lane> lanes_;
  Event fence_ = nullptr;
  std::mutex fence_mutex_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Pending> incoming_;
  bool stopping_ = false;
  bool stuck_ = false;  // a copy did not end: streams can't be destroyed
  Status failure_;      // of the whole device
  std::thread thread_;
};

}  // namespace streamer::gpu
