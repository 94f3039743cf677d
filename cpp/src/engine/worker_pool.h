// The workers of a stream, those of them that are parked, and the tasks that they run beside reads.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "engine/plan.h"

namespace streamer {

// A state without threads, clocks or system calls: it decides, and its caller starts and wakes.
//
// A worker is running, parked, or called: chosen to be woken, and not awake yet. A worker that
// wakes up sees everything that happened meanwhile, and calls the next one if there is more to do.
// Therefore at most one worker is called at a time.
class WorkerPool {
 public:
  using Task = std::function<void()>;

  // `width`: the workers that tasks may occupy.
  void add_task(Task task, int width);
  bool has_tasks() const { return !tasks_.empty(); }
  std::list<Task> drop_tasks() { return std::exchange(tasks_, {}); }
  // The workers that the waiting tasks may occupy.
  int task_width() const { return tasks_.empty() ? 0 : task_width_; }
  // True if a task comes next. While reads wait, too, tasks occupy at most half of the workers; a
  // single worker alternates.
  bool task_is_next(bool reads_wait) const;
  Task take_task(WorkerId worker);
  // A worker has a job: it asks again when that has ended.
  void begin_job(WorkerId worker);
  bool any_has_job() const { return in_jobs_ > 0; }

  // Chooses to start one more worker if no worker is parked and there are fewer than `wanted`.
  std::optional<WorkerId> start(int wanted);
  // A worker could not be started: no further worker is started from now on.
  void not_started();
  int workers() const { return workers_; }

  // A worker asks for work; it is not parked any more.
  void arrived(WorkerId worker);
  // A worker that found nothing waits until it is called. `watches`: or until a time.
  void park(WorkerId worker, bool watches);
  bool parked(WorkerId worker) const { return states_[worker].state == State::kParked; }
  bool any_parked() const { return !parked_.empty(); }
  bool any_watches() const { return watcher_.has_value(); }

  // True if a worker that `suits` is running: it asks again when its job has ended.
  template <typename Suits>
  bool any_runs_that(Suits suits) const {
    for (WorkerId id = 0; id < static_cast<WorkerId>(states_.size()); ++id) {
      if (states_[id].state == State::kRunning && suits(id)) return true;
    }
    return false;
  }

  // The worker to wake, of those that are parked; none if one is called already.
  std::optional<WorkerId> call();
  // Ensures that a worker that `suits` is called: one that is called already, or a parked one,
  // which `*worker` gets. False: there is none.
  template <typename Suits>
  bool call_one_that(Suits suits, std::optional<WorkerId>* worker) {
    for (WorkerId id = 0; id < static_cast<WorkerId>(states_.size()); ++id) {
      if (states_[id].state == State::kCalled && suits(id)) return true;
    }
    for (std::size_t i = parked_.size(); i > 0; --i) {
      if (!suits(parked_[i - 1])) continue;
      *worker = call_parked(i - 1);
      return true;
    }
    return false;
  }

 private:
  enum class State { kRunning, kParked, kCalled };
  struct Worker {
    State state = State::kRunning;
    bool in_task = false;
    bool in_job = false;
  };
  WorkerId call_parked(std::size_t index);
  void unpark(WorkerId worker);

  std::list<Task> tasks_;
  int task_width_ = 0;
  int in_tasks_ = 0;
  int in_jobs_ = 0;
  bool task_was_last_ = false;

  std::vector<Worker> states_;       // by number, also of those that could not be started
  std::vector<WorkerId> parked_;     // the one that was parked last is called first
  std::optional<WorkerId> watcher_;  // of them
  int called_ = 0;
  int workers_ = 0;
  int most_workers_ = 1 << 20;
};

}  // namespace streamer
