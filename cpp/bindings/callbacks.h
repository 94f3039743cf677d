// What the engine asks of Python.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>

#include "streamer/stream.h"

namespace streamer::python {

// A Python exception (KeyboardInterrupt) that came while the engine waited.
class PendingInterrupt {
 public:
  // Without the GIL. Whether there is one, or the interpreter is about to end.
  bool check();
  // With the GIL held.
  void raise();

 private:
  std::unique_ptr<pybind11::error_already_set> error_;
};

// Set when nobody waits for credentials any more.
using Ended = std::shared_ptr<std::atomic<bool>>;

// Raises where a thread would begin what the interpreter's end is going to stop.
void check_not_ending();

// provider(kind, container, refresh) -> (values, expires_at, identity) or None. A thread of its own
// calls it: a function of Python can't be interrupted, and is left behind once `ended` is set.
CredentialsProvider wrap_provider(const pybind11::object& provider, const Ended& ended);

}  // namespace streamer::python
