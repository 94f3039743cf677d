// Carries out the decisions of SchedulerCore: the lock, the clock, waits and wake-ups.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>

#include "base/mutex.h"
#include "engine/scheduler_core.h"

namespace streamer {

// The next job of a worker: a task, or a chunk, or (neither) its end.
struct Job {
  WorkerPool::Task task;
  std::optional<Chunk> chunk;
  explicit operator bool() const { return task || chunk.has_value(); }
};

// Thread-safe. The lock is held for decisions, allocations of small lists, and the system calls of
// the lock and its condition variables. It is not held while files and mappings are used, or while
// tasks and the memory of a step or a delivery are dropped. If the system refuses memory for the
// lists, the scheduler ends as by cancel() with kOutOfMemory.
class Scheduler : public MemoryListener {
 public:
  // `start_worker` starts the worker of that number; it is called without the lock. `memory_limit`
  // as in Options.
  Scheduler(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<MemoryPool> pool,
            MemoryLimit memory_limit, std::function<void(WorkerId)> start_worker);

  // See SchedulerCore.
  void add_source(SourceKind kind, const SourceLimits& limits) EXCLUDES(mutex_);
  void bound_reads(SourceKind kind, int most) EXCLUDES(mutex_);
  void start_concurrency(SourceKind kind, const Proximity& proximity) EXCLUDES(mutex_);
  Status add(Plan plan) EXCLUDES(mutex_);
  void add_task(WorkerPool::Task task, int width) EXCLUDES(mutex_);

  // For workers: blocks until there is something to do. An empty job: the worker ends.
  Job take(WorkerId worker) noexcept EXCLUDES(mutex_);
  void read_ended(const Chunk& chunk, const ReadReport& report) noexcept EXCLUDES(mutex_);
  void requeue(Chunk tail) noexcept EXCLUDES(mutex_);
  void complete(const Chunk& chunk, const Status& status, const ReadReport& report) noexcept
      EXCLUDES(mutex_);

  // For the consumer: waits until blocks are ready, until `deadline`, or for wake().
  Result<SchedulerCore::Delivery> next(Clock::time_point deadline) EXCLUDES(mutex_);
  // Makes one call of next() return without waiting: the one that waits, or else the next one.
  void wake() noexcept EXCLUDES(mutex_);

  // Every waiting and later call of next() returns `reason`; workers end.
  void cancel(Status reason) noexcept EXCLUDES(mutex_);
  // The same, since the stream is closed, or since the system refuses memory. They allocate
  // nothing.
  void close() noexcept EXCLUDES(mutex_);
  void cancel_without_memory() noexcept EXCLUDES(mutex_);
  Status fatal() const EXCLUDES(mutex_);  // the reason of cancel(), ok before
  // A worker could not be started.
  void worker_not_started() EXCLUDES(mutex_);
  void memory_returned() override EXCLUDES(mutex_);

  int workers() const EXCLUDES(mutex_);
  int concurrency() const EXCLUDES(mutex_);  // of the last source used
  SchedulerTimes times() const EXCLUDES(mutex_);

 private:
  using Tasks = std::list<WorkerPool::Task>;
  // The actions that follow a call of the core, after the lock is released.
  struct Actions {
    bool consumer = false;
    CondVar* worker = nullptr;
    std::optional<WorkerId> start;
    std::optional<SourceKind> measure;
    bool no_memory = false;
  };
  Actions actions_of(const Signals& signals) REQUIRES(mutex_);
  template <typename Operation>
  Actions ask_core(Operation operation, Tasks* dropped) REQUIRES(mutex_);
  void carry_out(const Actions& actions) noexcept EXCLUDES(mutex_);
  template <typename Operation>
  bool decide(Operation operation) noexcept EXCLUDES(mutex_);
  void find_memory(Step::Placing* placing) EXCLUDES(mutex_);
  void wait_for_work(WorkerId worker, Clock::time_point until) REQUIRES(mutex_);
  void cancel_locked(Status* reason, Tasks* tasks) REQUIRES(mutex_);

  const std::shared_ptr<MemoryPool> pool_;
  const std::function<void(WorkerId)> start_worker_;

  mutable Mutex mutex_;
  SchedulerCore core_ GUARDED_BY(mutex_);
  CondVar ready_;                                // for the consumer
  std::deque<CondVar> work_ GUARDED_BY(mutex_);  // for each worker
  bool woken_ GUARDED_BY(mutex_) = false;        // see wake()
  Status fatal_ GUARDED_BY(mutex_);
  // Made while there is memory.
  Status closed_ GUARDED_BY(mutex_);
  Status no_memory_ GUARDED_BY(mutex_);
};

}  // namespace streamer
