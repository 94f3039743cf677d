#include "interpreter.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace py = pybind11;

namespace streamer::python {
namespace {

std::atomic<bool> about_to_end{false};
std::atomic<int> entering{0};  // threads between a look at the flag and the GIL

// Objects whose last reference in the engine is gone. Without a lock: a process may fork at any
// time.
struct Dropped {
  PyObject* object;
  Dropped* next;
};
std::atomic<Dropped*> dropped{nullptr};

void free_dropped() noexcept {
  if (dropped.load(std::memory_order_relaxed) == nullptr || interpreter_ends()) return;
  Dropped* all = dropped.exchange(nullptr, std::memory_order_acquire);
  while (all != nullptr) {
    Dropped* const next = all->next;
    held_fast([all] { Py_DECREF(all->object); });
    delete all;
    all = next;
  }
}

// Within this function no thread is on its way into the interpreter, and none begins.
void close_entrance() {
  about_to_end = true;
  const WithoutGil others_go_on;
  while (entering > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() == 0 || Py_IsFinalizing() != 0;
#else
  return Py_IsInitialized() == 0 || _Py_IsFinalizing() != 0;
#endif
}

bool interpreter_is_about_to_end() { return about_to_end; }

void call_at_exit(void (*function)()) {
  py::module_::import("atexit").attr("register")(py::cpp_function([function] {
    close_entrance();
    function();
  }));
}

void wait_for_ever() noexcept {
  for (;;) pause();
}

WithoutGil::~WithoutGil() {
  held_fast([this] { PyEval_RestoreThread(state_); });
  free_dropped();
}

WithGil::WithGil() {
  // A thread that has a Python thread state is in a call that the interpreter waits for or stops.
  const bool known = PyGILState_GetThisThreadState() != nullptr;
  ++entering;
  if (!known && about_to_end) {
    --entering;
    wait_for_ever();
  }
  held_fast([this] { state_ = PyGILState_Ensure(); });
  --entering;
}

WithGil::~WithGil() { PyGILState_Release(state_); }

std::shared_ptr<PyObject> shared_object(py::object object) {
  auto* const link = new Dropped{object.ptr(), nullptr};
  return {object.release().ptr(), [link](PyObject*) {
            link->next = dropped.load(std::memory_order_relaxed);
            while (!dropped.compare_exchange_weak(link->next, link, std::memory_order_release)) {
            }
          }};
}

}  // namespace streamer::python
