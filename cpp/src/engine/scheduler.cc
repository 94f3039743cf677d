#include "engine/scheduler.h"

#include <new>
#include <utility>

#include "base/system.h"
#include "engine/statuses.h"

namespace streamer {
Scheduler::Scheduler(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<MemoryPool> pool,
                     MemoryLimit memory_limit, std::function<void(WorkerId)> start_worker)
    : pool_(std::move(pool)),
      start_worker_(std::move(start_worker)),
      core_(std::move(budget), pool_, memory_limit),
      closed_(stream_closed()),
      no_memory_(no_memory()) {}

Scheduler::Actions Scheduler::actions_of(const Signals& signals) {
  if (signals.start) work_.resize(static_cast<std::size_t>(*signals.start) + 1);
  return {signals.consumer, signals.worker ? &work_[*signals.worker] : nullptr, signals.start,
          signals.measure};
}

// Calls the core. Without memory it may have stopped anywhere: no caller sees that state before it
// is cancelled.
template <typename Operation>
Scheduler::Actions Scheduler::ask_core(Operation operation, Tasks* dropped) {
  try {
    Signals signals;
    operation(core_, &signals);
    return actions_of(signals);
  } catch (const std::bad_alloc&) {
    cancel_locked(&no_memory_, dropped);
    Actions none;
    none.no_memory = true;
    return none;
  }
}

void Scheduler::carry_out(const Actions& actions) noexcept {
  if (actions.consumer) ready_.notify_all();
  if (actions.worker != nullptr) actions.worker->notify_one();
  try {
    if (actions.start) start_worker_(*actions.start);
    if (actions.measure) {
      const double used = processor_seconds();
      const MutexLock lock(mutex_);
      core_.measured(*actions.measure, used, Clock::now());
    }
  } catch (const std::bad_alloc&) {
    cancel_without_memory();
  }
}

// Calls the core under the lock, and carries out the actions without it. False: without memory.
template <typename Operation>
bool Scheduler::decide(Operation operation) noexcept {
  Tasks dropped;  // outlive the lock
  Actions actions;
  {
    const MutexLock lock(mutex_);
    actions = ask_core(operation, &dropped);
  }
  carry_out(actions);
  return !actions.no_memory;
}

void Scheduler::add_source(SourceKind kind, const SourceLimits& limits) {
  const MutexLock lock(mutex_);
  core_.add_source(kind, limits);
}

void Scheduler::bound_reads(SourceKind kind, int most) {
  const MutexLock lock(mutex_);
  core_.bound_reads(kind, most);
}

void Scheduler::start_concurrency(SourceKind kind, const Proximity& proximity) {
  const MutexLock lock(mutex_);
  core_.start_concurrency(kind, proximity);
}

Status Scheduler::add(Plan plan) {
  Status status;
  const bool added = decide(
      [&](SchedulerCore& core, Signals* signals) { status = core.add(std::move(plan), signals); });
  return added ? std::move(status) : no_memory();
}

void Scheduler::add_task(WorkerPool::Task task, int width) {
  decide([&](SchedulerCore& core, Signals* signals) {
    core.add_task(std::move(task), width, signals);
  });
}

Job Scheduler::take(WorkerId worker) noexcept {
  Tasks dropped;  // outlive the lock, and the step does, too: it may hold memory
  Step step;
  Actions actions;
  {
    MutexLock lock(mutex_);
    for (bool found = false; !found;) {
      step.kind = Step::Kind::kEnd;
      actions = ask_core([&](SchedulerCore& core,
                             Signals* signals) { step = core.next(worker, Clock::now(), signals); },
                         &dropped);
      switch (step.kind) {
        case Step::Kind::kPark:
          // A worker that parks may have failed the rest of a block.
          if (actions.consumer) ready_.notify_all();
          if (actions.worker != nullptr) actions.worker->notify_one();
          wait_for_work(worker, step.until);
          break;
        case Step::Kind::kPlace:
          lock.unlock();
          carry_out(actions);
          find_memory(&step.placing);
          lock.lock();
          actions =
              ask_core([&](SchedulerCore& core, Signals*) { core.placed(std::move(step.placing)); },
                       &dropped);
          break;
        case Step::Kind::kTask:
        case Step::Kind::kRead:
        case Step::Kind::kEnd: found = true; break;
      }
    }
  }
  carry_out(actions);
  Job job;
  if (step.kind == Step::Kind::kTask) job.task = std::move(step.task);
  if (step.kind == Step::Kind::kRead) job.chunk = std::move(step.chunk);
  return job;
}

void Scheduler::wait_for_work(WorkerId worker, Clock::time_point until) {
  CondVar& called = work_[worker];
  while (core_.parked(worker) && !core_.cancelled() && Clock::now() < until) {
    called.wait_until(mutex_, until);
  }
}

void Scheduler::find_memory(Step::Placing* placing) {
  if (placing->object) {
    placing->viewed = placing->object->acquire_view(placing->offset, placing->bytes);
  } else {
    placing->buffer = pool_->map(std::move(*placing->reservation));
  }
}

void Scheduler::read_ended(const Chunk& chunk, const ReadReport& report) noexcept {
  decide([&](SchedulerCore& core, Signals* signals) {
    core.read_ended(chunk, report, Clock::now(), signals);
  });
}

void Scheduler::requeue(Chunk tail) noexcept {
  decide([&](SchedulerCore& core, Signals* signals) { core.requeue(std::move(tail), signals); });
}

void Scheduler::complete(const Chunk& chunk, const Status& status,
                         const ReadReport& report) noexcept {
  decide([&](SchedulerCore& core, Signals* signals) {
    core.complete(chunk, status, report, Clock::now(), signals);
  });
}

Result<SchedulerCore::Delivery> Scheduler::next(Clock::time_point deadline) {
  Tasks dropped;  // outlive the lock, and the delivery does, too: it holds memory
  SchedulerCore::Delivery delivery;
  Actions actions;
  {
    const MutexLock lock(mutex_);
    for (bool done = false; !done;) {
      if (core_.cancelled()) return fatal_;
      const Clock::time_point now = Clock::now();
      delivery.woken = std::exchange(woken_, false);
      const bool last = delivery.woken || now >= deadline;
      actions =
          ask_core([&](SchedulerCore& core,
                       Signals* signals) { done = core.deliver(now, last, &delivery, signals); },
                   &dropped);
      if (!done && !core_.cancelled()) ready_.wait_until(mutex_, deadline);
    }
  }
  carry_out(actions);
  return delivery;
}

void Scheduler::wake() noexcept {
  {
    const MutexLock lock(mutex_);
    woken_ = true;
  }
  ready_.notify_all();
}

void Scheduler::cancel_locked(Status* reason, Tasks* tasks) {
  if (!core_.cancelled()) fatal_ = std::move(*reason);
  tasks->splice(tasks->end(), core_.cancel());
  for (CondVar& called : work_) called.notify_one();
  ready_.notify_all();
}

void Scheduler::cancel(Status reason) noexcept {
  Tasks tasks;  // outlive the lock
  const MutexLock lock(mutex_);
  cancel_locked(&reason, &tasks);
}

void Scheduler::close() noexcept {
  Tasks tasks;
  const MutexLock lock(mutex_);
  cancel_locked(&closed_, &tasks);
}

void Scheduler::cancel_without_memory() noexcept {
  Tasks tasks;
  const MutexLock lock(mutex_);
  cancel_locked(&no_memory_, &tasks);
}

void Scheduler::worker_not_started() {
  bool none = false;
  {
    const MutexLock lock(mutex_);
    none = core_.not_started();
  }
  if (none) {
    cancel(Status::error(Code::kOutOfMemory, "cannot create a reader thread")
               .with_hint("Raise the limit of processes (ulimit -u) or of the cgroup (pids.max)"));
  }
}

void Scheduler::memory_returned() {
  decide([](SchedulerCore& core, Signals* signals) { core.memory_returned(signals); });
}

Status Scheduler::fatal() const {
  const MutexLock lock(mutex_);
  return fatal_;
}

int Scheduler::workers() const {
  const MutexLock lock(mutex_);
  return core_.workers();
}

int Scheduler::concurrency() const {
  const MutexLock lock(mutex_);
  return core_.concurrency();
}

SchedulerTimes Scheduler::times() const {
  const MutexLock lock(mutex_);
  return core_.times();
}

}  // namespace streamer
