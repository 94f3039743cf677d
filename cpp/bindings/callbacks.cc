#include "callbacks.h"

#include <pthread.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include "base/blocked_signals.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "convert.h"
#include "interpreter.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

constexpr std::size_t kWaiting = 1000;  // retries; the rest of a storm is not told

constexpr std::chrono::milliseconds kLookForEnd{50};

// A question of a worker to a Python function, and the answer.
class Question {
 public:
  Question(CredentialsRequest request, Ended ended)
      : request_(std::move(request)), ended_(std::move(ended)) {}
  const CredentialsRequest& request() const { return request_; }

  void answer(Result<Credentials> answer) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    answer_ = std::move(answer);
    answered_.notify_all();
  }
  void answer_without_memory() noexcept EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    no_memory_ = true;
    answered_.notify_all();
  }
  Result<Credentials> wait() EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    while (!answer_) {
      if (no_memory_) throw std::bad_alloc();
      if (interpreter_is_about_to_end() || *ended_) {
        return Status::error(Code::kCancelled, "nobody waits for the credentials any more");
      }
      answered_.wait_until(mutex_, Clock::now() + kLookForEnd);
    }
    return std::move(*answer_);
  }

 private:
  const CredentialsRequest request_;
  const Ended ended_;
  Mutex mutex_;
  CondVar answered_;
  std::optional<Result<Credentials>> answer_ GUARDED_BY(mutex_);
  bool no_memory_ GUARDED_BY(mutex_) = false;
};

// With the GIL held.
Result<Credentials> ask(PyObject* provider, const CredentialsRequest& request) {
  try {
    const py::object answer =
        call_python(py::reinterpret_borrow<py::object>(provider), source_kind_name(request.kind),
                    request.container, request.refresh);
    Credentials credentials;
    if (answer.is_none()) return credentials;
    const auto parts = answer.cast<py::tuple>();
    credentials.values = parts[0].cast<std::map<std::string, std::string>>();
    credentials.expires_at = parts[1].cast<std::int64_t>();
    credentials.identity = parts[2].cast<std::string>();
    return credentials;
  } catch (const py::error_already_set& error) {
    const auto type = py::str(error.type().attr("__name__")).cast<std::string>();
    const auto what = py::str(error.value()).cast<std::string>();
    if (error.matches(PyExc_ImportError)) return Status::error(Code::kPackage, what);
    return Status::error(Code::kCredentials, "no credentials: " + type + ": " + what);
  } catch (const std::exception& error) {
    return Status::error(Code::kCredentials, std::string("no credentials: ") + error.what());
  }
}

}  // namespace

struct Retries::Queue {
  Mutex mutex;
  std::deque<Retry> waiting GUARDED_BY(mutex);
  std::atomic<bool> any{false};
};

Retries::Retries(const py::object& told) {
  if (told.is_none()) return;
  queue_ = std::make_shared<Queue>();
  told_ = shared_object(told);
}

std::function<void(const Retry&)> Retries::listener() {
  if (!queue_) return {};
  return [queue = queue_](const Retry& retry) {
    const MutexLock lock(queue->mutex);
    if (queue->waiting.size() >= kWaiting) return;
    queue->waiting.push_back(retry);
    queue->any = true;
  };
}

void Retries::tell() {
  if (!queue_ || !queue_->any) return;
  std::deque<Retry> taken;
  {
    const MutexLock lock(queue_->mutex);
    taken.swap(queue_->waiting);
    queue_->any = false;
  }
  for (const Retry& retry : taken) {
    try {
      call_python(py::reinterpret_borrow<py::object>(told_.get()), text(retry.path), retry.attempt,
                  retry.pause, to_exception(retry.reason));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_Exception)) throw;  // the handler of a signal may run in it
      error.discard_as_unraisable("the log of retries");
    }
  }
}

bool PendingInterrupt::check() {
  if (interpreter_is_about_to_end()) return true;
  const WithGil gil;
  try {
    retries_.tell();
    if (held_fast([] { return PyErr_CheckSignals(); }) != 0) throw py::error_already_set();
  } catch (py::error_already_set& error) {
    error_ = std::make_unique<py::error_already_set>(std::move(error));
    return true;
  }
  return false;
}

void PendingInterrupt::raise() {
  if (!error_) return;
  const std::unique_ptr<py::error_already_set> error = std::move(error_);
  throw py::error_already_set(*error);
}

void check_not_ending() {
  if (!interpreter_is_about_to_end()) return;
  const bool main_thread = getpid() == gettid();
  if (main_thread) return;  // that of the functions for the end, which may still load
  raise_if_failed(Status::error(Code::kCancelled, "the interpreter is about to end"));
}

CredentialsProvider wrap_provider(const py::object& provider, const Ended& ended) {
  if (provider.is_none()) return {};
  auto callable = shared_object(provider.cast<py::function>());
  return [callable, ended](const CredentialsRequest& request) -> Result<Credentials> {
    auto question = std::make_shared<Question>(request, ended);
    try {
      const BlockedSignals blocked;
      std::thread([callable, question] {
        pthread_setname_np(pthread_self(), "streamer-ask");
        const WithGil gil;
        try {
          question->answer(ask(callable.get(), question->request()));
        } catch (const std::bad_alloc&) {
          question->answer_without_memory();
        }
      }).detach();
    } catch (const std::system_error& error) {
      return Status::error(Code::kOutOfMemory, "the system has no thread to ask Python with")
          .with_errno(error.code().value())
          .with_hint("Raise the limit of processes (ulimit -u) or of the cgroup (pids.max)");
    }
    return question->wait();
  };
}

}  // namespace streamer::python
