#include "engine/scheduler.h"

#include <new>
#include <utility>

#include "base/system.h"

namespace streamer {
Scheduler::Scheduler(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<MemoryPool> pool,
                     MemoryLimit memory_limit, std::function<void(WorkerId)> start_worker)
    : pool_(std::move(pool)),
      start_worker_(std::move(start_worker)),
      core_(std::move(budget), pool_, memory_limit),
      no_memory_(Status::error(Code::kOutOfMemory, "the system has no memory for a read")
                     .with_hint("Give the process more memory")) {}

Scheduler::Actions Scheduler::actions_of(const Signals& signals) {
  if (signals.start) work_.resize(static_cast<std::size_t>(*signals.start) + 1);
  return {signals.consumer, signals.worker ? &work_[*signals.worker] : nullptr, signals.start,
          signals.measurement};
}

void Scheduler::carry_out(const Actions& actions) {
  if (actions.consumer) ready_.notify_all();
  if (actions.worker != nullptr) actions.worker->notify_one();
  if (actions.start) start_worker_(*actions.start);
  if (actions.measurement) {
    const ProcessorTimes times = processor_times(actions.measurement->with_idle);
    const MutexLock lock(mutex_);
    core_.measured(actions.measurement->kind, times, Clock::now());
  }
}

// Calls the core under the lock, and carries out what follows without it.
template <typename Operation>
void Scheduler::decide(Operation operation) {
  Actions actions;
  {
    const MutexLock lock(mutex_);
    Signals signals;
    operation(core_, &signals);
    actions = actions_of(signals);
  }
  carry_out(actions);
}

// The same for a worker, which has nobody to throw to.
template <typename Operation>
void Scheduler::tell(Operation operation) noexcept {
  try {
    decide(operation);
  } catch (const std::bad_alloc&) {
    cancel_without_memory();
  }
}

void Scheduler::add_source(SourceKind kind, SourceLimits limits) {
  const MutexLock lock(mutex_);
  core_.add_source(kind, limits);
}

void Scheduler::start_concurrency(SourceKind kind, const Distance& distance) {
  const MutexLock lock(mutex_);
  core_.start_concurrency(kind, distance);
}

Status Scheduler::add_blocks(std::vector<Block> blocks) {
  Status status;
  decide([&](SchedulerCore& core, Signals* signals) {
    status = core.add_blocks(std::move(blocks), signals);
  });
  return status;
}

void Scheduler::add_task(WorkerPool::Task task, int width) {
  decide([&](SchedulerCore& core, Signals* signals) {
    core.add_task(std::move(task), width, signals);
  });
}

Job Scheduler::take(WorkerId worker) noexcept {
  Job job;
  try {
    take_job(worker, &job);
  } catch (const std::bad_alloc&) {
    cancel_without_memory();
    return {};
  }
  return job;
}

void Scheduler::take_job(WorkerId worker, Job* job) {
  Step step;  // outlives the lock: it may hold memory
  Actions actions;
  {
    MutexLock lock(mutex_);
    for (bool found = false; !found;) {
      Signals signals;
      step = core_.next(worker, Clock::now(), &signals);
      actions = actions_of(signals);
      switch (step.kind) {
        case Step::Kind::kPark:
          if (actions.worker != nullptr) actions.worker->notify_one();
          wait_for_work(worker, step.until);
          break;
        case Step::Kind::kPlace:
          lock.unlock();
          carry_out(actions);
          find_memory(&step.placing);
          lock.lock();
          core_.placed(std::move(step.placing));
          break;
        case Step::Kind::kTask:
        case Step::Kind::kRead:
        case Step::Kind::kEnd: found = true; break;
      }
    }
  }
  carry_out(actions);
  if (step.kind == Step::Kind::kTask) job->task = std::move(step.task);
  if (step.kind == Step::Kind::kRead) job->chunk = std::move(step.chunk);
}

void Scheduler::wait_for_work(WorkerId worker, std::optional<Clock::time_point> until) {
  CondVar& called = work_[worker];
  while (core_.parked(worker) && !core_.cancelled()) {
    if (!until) {
      called.wait(mutex_);
    } else if (Clock::now() < *until) {
      called.wait_until(mutex_, *until);
    } else {
      return;
    }
  }
}

void Scheduler::find_memory(Step::Placing* placing) {
  if (placing->object) {
    placing->viewed = placing->object->take_view(placing->offset, placing->bytes);
  } else {
    placing->buffer = pool_->map(std::move(*placing->reservation));
  }
}

void Scheduler::read_ended(const Chunk& chunk, const ReadReport& report) noexcept {
  tell([&](SchedulerCore& core, Signals* signals) {
    core.read_ended(chunk, report, Clock::now(), signals);
  });
}

void Scheduler::requeue(Chunk tail) noexcept {
  tell([&](SchedulerCore& core, Signals* signals) { core.requeue(std::move(tail), signals); });
}

void Scheduler::complete(const Chunk& chunk, const Status& status,
                         const ReadReport& report) noexcept {
  tell([&](SchedulerCore& core, Signals* signals) {
    core.complete(chunk, status, report, Clock::now(), signals);
  });
}

Result<SchedulerCore::Delivery> Scheduler::next(Clock::time_point deadline) {
  SchedulerCore::Delivery delivery;  // outlives the lock: it holds memory
  Actions actions;
  {
    const MutexLock lock(mutex_);
    for (;;) {
      if (core_.cancelled()) return fatal_;
      const Clock::time_point now = Clock::now();
      delivery.woken = std::exchange(woken_, false);
      Signals signals;
      const bool done = core_.deliver(now, delivery.woken || now >= deadline, &delivery, &signals);
      actions = actions_of(signals);
      if (done) break;
      if (deadline == Clock::time_point::max()) {
        ready_.wait(mutex_);
      } else {
        ready_.wait_until(mutex_, deadline);
      }
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

void Scheduler::cancel_locked(Status* reason, std::list<WorkerPool::Task>* tasks) {
  if (!core_.cancelled()) fatal_ = std::move(*reason);
  *tasks = core_.cancel();
  for (CondVar& called : work_) called.notify_one();
  ready_.notify_all();
}

void Scheduler::cancel(Status reason) noexcept {
  std::list<WorkerPool::Task> tasks;  // outlives the lock
  const MutexLock lock(mutex_);
  cancel_locked(&reason, &tasks);
}

void Scheduler::cancel_without_memory() noexcept {
  std::list<WorkerPool::Task> tasks;
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
