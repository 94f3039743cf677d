// Calls of the engine to Python.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <functional>
#include <memory>

#include "streamer/stream.h"

namespace streamer::python {

// Requests that will be repeated, on their way from the threads of the engine to a function of
// Python: each thread of Python that waits takes those that have come by then.
class Retries {
 public:
  // `told` is called with (path, attempt, pause in seconds, exception); None: there is no listener.
  explicit Retries(const pybind11::object& told);
  // For Options::retried; may be empty.
  std::function<void(const Retry&)> listener();
  // With the GIL held. An Exception of the function is dropped: a log line fails no load. What is
  // none, as KeyboardInterrupt, is raised.
  void tell();

 private:
  struct Queue;
  std::shared_ptr<Queue> queue_;
  std::shared_ptr<PyObject> told_;
};

// A Python exception (KeyboardInterrupt) that came while the engine waited.
class PendingInterrupt {
 public:
  PendingInterrupt() : PendingInterrupt(pybind11::none()) {}
  // `retried` is told of requests that will be repeated, while the engine waits: see Retries.
  explicit PendingInterrupt(const pybind11::object& retried) : retries_(retried) {}
  // Without the GIL. True if there is one, or the interpreter is about to end.
  bool check();
  // With the GIL held.
  void raise();
  Retries& retries() { return retries_; }

 private:
  std::unique_ptr<pybind11::error_already_set> error_;
  Retries retries_;
};

// Set when no call waits for credentials any more.
using Ended = std::shared_ptr<std::atomic<bool>>;

// Raises if a thread would begin work that the interpreter's end is going to stop.
void check_not_ending();

// provider(kind, container, refresh) -> (values, expires_at, identity) or None. A thread of its own
// calls it: a function of Python can't be interrupted, and is left behind once `ended` is set.
CredentialsProvider wrap_provider(const pybind11::object& provider, const Ended& ended);

}  // namespace streamer::python
