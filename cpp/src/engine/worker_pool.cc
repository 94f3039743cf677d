#include "engine/worker_pool.h"

#include <algorithm>
#include <utility>

namespace streamer {

void WorkerPool::add_task(Task task, int width) {
  tasks_.push_back(std::move(task));
  task_width_ = std::max(task_width_, width);
}

bool WorkerPool::task_is_next(bool reads_wait) const {
  if (tasks_.empty()) return false;
  if (!reads_wait) return true;
  return workers_ == 1 ? !task_was_last_ : in_tasks_ < workers_ / 2;
}

WorkerPool::Task WorkerPool::take_task(WorkerId worker) {
  Task task = std::move(tasks_.front());
  tasks_.pop_front();
  states_[worker].in_task = true;
  ++in_tasks_;
  return task;
}

void WorkerPool::begin_job(WorkerId worker) {
  states_[worker].in_job = true;
  ++in_jobs_;
}

std::optional<WorkerId> WorkerPool::start(int wanted) {
  if (!parked_.empty() || called_ > 0 || workers_ >= std::min(wanted, most_workers_)) {
    return std::nullopt;
  }
  parked_.reserve(states_.size() + 1);  // so that park() never allocates
  states_.emplace_back();
  ++workers_;
  return static_cast<WorkerId>(states_.size() - 1);
}

void WorkerPool::not_started() {
  --workers_;
  most_workers_ = workers_;
}

void WorkerPool::arrived(WorkerId worker) {
  Worker& state = states_[worker];
  task_was_last_ = state.in_task;
  if (state.in_task) --in_tasks_;
  state.in_task = false;
  if (state.in_job) --in_jobs_;
  state.in_job = false;
  if (state.state == State::kCalled) --called_;
  if (state.state == State::kParked) unpark(worker);
  state.state = State::kRunning;
}

void WorkerPool::park(WorkerId worker, bool watches) {
  states_[worker].state = State::kParked;
  parked_.push_back(worker);
  if (watches) watcher_ = worker;
}

void WorkerPool::unpark(WorkerId worker) {
  parked_.erase(std::find(parked_.begin(), parked_.end(), worker));
  if (watcher_ == worker) watcher_.reset();
}

WorkerId WorkerPool::call_parked(std::size_t index) {
  const WorkerId worker = parked_[index];
  unpark(worker);
  states_[worker].state = State::kCalled;
  ++called_;
  return worker;
}

std::optional<WorkerId> WorkerPool::call() {
  if (parked_.empty() || called_ > 0) return std::nullopt;
  // The watcher is called last, because another worker would have to replace it.
  const std::size_t last = parked_.size() - 1;
  return call_parked(last > 0 && parked_[last] == watcher_ ? last - 1 : last);
}

}  // namespace streamer
