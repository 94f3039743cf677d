// Access to the interpreter for threads that may outlive it.
//
// When the interpreter ends, a thread that wants the GIL does not get it any more: up to Python
// 3.13 CPython ends the thread (pthread_exit), which unwinds its stack without the GIL, and aborts
// if it comes by a destructor. Here such a thread waits for ever instead, as it does from Python
// 3.14 on. All transitions of the GIL go through this header.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

namespace streamer::python {

// True if the interpreter ends, or has ended. With or without the GIL.
bool interpreter_ends();

// True if its functions for the end have begun: the engine asks Python nothing from then on. With
// or without the GIL.
bool interpreter_is_about_to_end();

// Registers `function` to be called at the interpreter's end while threads can still run, with the
// GIL held.
void call_at_exit(void (*function)());

// For the thread that the interpreter does not take back.
[[noreturn]] void wait_for_ever() noexcept;

// Runs `operation`, which calls CPython, in a frame that nothing is unwound through: no object with
// a destructor may live within it while it calls a function that may take the GIL.
template <typename Operation>
decltype(auto) held_fast(Operation operation) {
  try {
    return operation();
  } catch (const abi::__forced_unwind&) {
    wait_for_ever();
  }
}

// Without the GIL, for a thread that holds it.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil();

 private:
  PyThreadState* const state_;
};

// With the GIL, for any thread.
class WithGil {
 public:
  WithGil();
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil();

 private:
  PyGILState_STATE state_;
};

// Calls `callable`, a Python function that may take any time. With the GIL held.
template <typename... Arguments>
pybind11::object call_python(const pybind11::object& callable, Arguments&&... arguments) {
  const pybind11::tuple all = pybind11::make_tuple(std::forward<Arguments>(arguments)...);
  PyObject* const result =
      held_fast([&] { return PyObject_Call(callable.ptr(), all.ptr(), nullptr); });
  if (result == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

// A Python object that any thread may drop, with or without the GIL: the next thread that leaves
// the engine frees it.
std::shared_ptr<PyObject> shared_object(pybind11::object object);

}  // namespace streamer::python
