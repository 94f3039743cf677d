// The decisions of a stream, without the threads and locks that carry them out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "engine/delivery_queue.h"
#include "engine/flow_control.h"
#include "engine/plan.h"
#include "engine/read_cursor.h"
#include "engine/straggler_policy.h"
#include "engine/wait_times.h"
#include "engine/worker_pool.h"

namespace streamer {

// Actions of the owner of the threads after a call, without a lock.
struct Signals {
  bool consumer = false;              // wake the consumer
  std::optional<WorkerId> worker;     // wake this worker
  std::optional<WorkerId> start;      // start this worker
  std::optional<SourceKind> measure;  // the processors, then call measured()
};

// The next step of a worker.
struct Step {
  enum class Kind {
    kEnd,    // nothing any more
    kTask,   // run `task`, then ask again
    kRead,   // read `chunk`, then report it, then ask again
    kPlace,  // find memory for a block: carry out `placing`, then report it, then ask again
    kPark,   // wait until it is called, or `until` a time, then ask again
  };
  Kind kind = Kind::kEnd;
  WorkerPool::Task task;
  Chunk chunk;
  struct Placing {
    Block* block = nullptr;  // the scheduler's; the worker does not touch it
    // Either a request for these bytes as a part of the object's view, by Object::acquire_view();
    std::shared_ptr<const Object> object;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    bool viewed = false;  // the answer
    // or a buffer to map, by MemoryPool::map(), which is null if the system has no memory.
    std::optional<MemoryPool::Reservation> reservation;
    std::shared_ptr<MemoryPool::Buffer> buffer;
  } placing;
  Clock::time_point until = Clock::time_point::max();
};

struct SchedulerTimes {
  double wait_storage = 0;  // seconds; see WaitTimes
  double wait_consumer = 0;
  double wait_memory = 0;
  std::uint64_t chunks = 0;
  std::uint64_t stragglers = 0;
  ConcurrencyController::Bound bound = ConcurrencyController::Bound::kUnknown;
};

// Not thread-safe. Every decision is a function of the state and of the time that is passed in:
// nothing here blocks, reads a clock, starts a thread or makes a system call. Scheduler drives it
// with a lock, threads and the clock of the system; a simulation drives it in virtual time.
//
// It decides; its parts keep the state: DeliveryQueue the blocks in order and the memory that the
// consumer holds, ReadCursor the position of reading and the chunk that is formed, WorkerPool the
// workers and tasks, StragglerPolicy slow reads, FlowControl the limits of reads in flight,
// WaitTimes the reasons of pauses.
//
// Blocks are delivered in the order in which they were added. A block gets memory when its first
// chunk is formed, and a chunk never reaches into a block that has none. If nothing is in flight
// and the next block to deliver has no memory, it gets some even if the budget is full. From then
// on the memory that the consumer holds does not count.
//
// If a call throws std::bad_alloc, the only valid next call is cancel().
class SchedulerCore {
 public:
  using TimePoint = Clock::time_point;

  SchedulerCore(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<MemoryPool> pool,
                MemoryLimit memory_limit);

  // Must come before the first block or task of that kind.
  void add_source(SourceKind kind, const SourceLimits& limits) { flow_.add_source(kind, limits); }
  void bound_reads(SourceKind kind, int most) { flow_.bound_reads(kind, most); }
  void start_concurrency(SourceKind kind, const Proximity& proximity) {
    flow_.start(kind, proximity);
  }

  // kMemoryLimit if a block is larger than an explicit limit.
  Status add(Plan plan, Signals* signals);
  // See WorkerPool::add_task().
  void add_task(WorkerPool::Task task, int width, Signals* signals);

  // For workers.
  Step next(WorkerId worker, TimePoint now, Signals* signals);
  // A worker whose step is to park may still do so.
  bool parked(WorkerId worker) const { return workers_.parked(worker); }
  // Step::kPlace was carried out.
  void placed(Step::Placing placing);
  // All bytes of the chunk were read or failed.
  void complete(const Chunk& chunk, const Status& status, const ReadReport& report, TimePoint now,
                Signals* signals);
  // The chunk was read, but its bytes are not in their destination yet: `reading` is cleared before
  // complete().
  void read_ended(const Chunk& chunk, const ReadReport& report, TimePoint now, Signals* signals);
  // The unread tail of a chunk that was aborted. A worker at full speed reads it, if there is one.
  void requeue(Chunk tail, Signals* signals);
  // `used`: seconds of processors, by all threads of the process.
  void measured(SourceKind kind, double used, TimePoint now) {
    flow_.measured(kind, used, stragglers_.bytes_in_flight(), now);
  }
  // A worker could not be started. True: there is none at all.
  bool not_started();

  // For the consumer. False: nothing is ready; it waits until it is woken or its timeout passes,
  // and asks again. With `last` it does not wait any more. See Stream::next().
  struct Delivery {
    std::vector<Block> blocks;
    bool finished = false;  // everything was delivered before
    bool woken = false;     // Scheduler::wake() ended the wait
  };
  bool deliver(TimePoint now, bool last, Delivery* delivery, Signals* signals);

  void memory_returned(Signals* signals);

  // Workers end. Returns the tasks that no worker runs any more.
  std::list<WorkerPool::Task> cancel();
  bool cancelled() const { return cancelled_; }

  int workers() const { return workers_.workers(); }
  int concurrency() const { return flow_.concurrency(); }
  SchedulerTimes times() const;

 private:
  enum class Placed { kYes, kNo, kInProgress };

  static bool consumer_keeps(const Block& block);
  bool idle() const;
  bool read_may_begin();
  int wanted_workers() const;
  void call_worker(Signals* signals);
  void start_worker(int wanted, Signals* signals);
  void hand_on(Signals* signals);
  enum class Requeued { kTake, kTakeLast, kLeave };
  Requeued requeued_for(WorkerId worker, Signals* signals);
  bool form_chunk(WorkerId worker, TimePoint now, Step* step, Signals* signals);
  void begin_task(WorkerId worker, Step* step);
  void begin_read(WorkerId worker, TimePoint now, Step* step);
  void park(WorkerId worker, TimePoint now, Step* step);
  Placed place(Block& block, Step* step);
  static void give_buffer(Block& block, std::shared_ptr<MemoryPool::Buffer> buffer);
  void fail_rest(Block& block, Signals* signals);
  void note_full(TimePoint now);
  void retry_reading(Signals* signals);
  std::uint64_t chunk_limit(const Block& block, WorkerId worker) const;
  void end_read(const Chunk& chunk, const ReadReport& report, TimePoint now, Signals* signals);

  const std::shared_ptr<MemoryPool> pool_;
  DeliveryQueue queue_;
  ReadCursor cursor_;
  WorkerPool workers_;
  StragglerPolicy stragglers_;
  FlowControl flow_;
  WaitTimes waits_;
  std::size_t chunks_in_flight_ = 0;
  std::uint64_t chunks_ = 0;        // reads that began
  std::uint64_t unread_bytes_ = 0;  // that are part of no chunk yet
  bool full_ = false;  // the last chunk could not be formed, and nothing has changed since
  bool cancelled_ = false;
};

}  // namespace streamer
