// What the engine and its threads hold of Python, and call there.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "streamer/stream.h"

namespace streamer::python {

// A Python exception (KeyboardInterrupt) that came while the engine waited.
class PendingInterrupt {
 public:
  // Without the GIL. Whether there is one.
  bool check();
  // With the GIL held.
  void raise();

 private:
  std::unique_ptr<pybind11::error_already_set> error_;
};

bool interpreter_ends();

// Python objects that the engine's threads hold must be dropped with the GIL held, and not at all
// where there is no interpreter any more.
template <typename T>
std::shared_ptr<T> shared_object(T object) {
  return {new T(std::move(object)), [](T* dropped) {
            if (interpreter_ends()) return;
            const pybind11::gil_scoped_acquire gil;
            delete dropped;
          }};
}

// provider(kind, container, refresh) -> (values, expires_at, identity) or None.
CredentialsProvider wrap_provider(const pybind11::object& provider);

}  // namespace streamer::python
