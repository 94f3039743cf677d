#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "buffer.h"
#include "callbacks.h"
#include "convert.h"
#include "interpreter.h"
#include "streamer/stream.h"

namespace py = pybind11;

namespace streamer::python {
namespace {

py::object exception_or_none(const Status& status) {
  return status.ok() ? py::object(py::none()) : to_exception(status);
}

// streamer::OpenedFile for Python.
struct PyOpenedFile {
  std::uint64_t size;
  std::string version;
  py::bytes prefix;
  py::object error;
};

// streamer::Ready for Python.
struct PyReady {
  std::uint64_t submission;
  std::size_t entry;
  std::uint32_t file;
  std::size_t first_range;
  std::size_t count;
  py::object memory;
  std::vector<std::uint64_t> positions;
  py::object error;
};

py::list to_python(Batch* batch) {
  py::list ready;
  for (Ready& run : batch->ready) {
    py::object memory = py::none();
    if (run.data != nullptr && run.data_size > 0) memory = py::cast(Buffer(&run));
    ready.append(PyReady{run.submission, run.entry, run.file, run.first_range, run.count,
                         std::move(memory), std::move(run.positions),
                         exception_or_none(run.status)});
  }
  return ready;
}

void* address(std::uint64_t value) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(value));  // NOLINT
}

// The run, and the count and the stride of each level.
using PyStrides = std::pair<std::uint64_t, std::vector<std::pair<std::uint64_t, std::uint64_t>>>;

std::shared_ptr<const Strides> make_strides(const PyStrides& given) {
  auto made = std::make_shared<Strides>();
  made->run = given.first;
  for (const auto& [count, stride] : given.second) made->levels.push_back({count, stride});
  return made;
}

FileRanges make_file_ranges(std::uint32_t file, const std::vector<std::uint64_t>& offsets,
                            const std::vector<std::uint64_t>& sizes,
                            const std::optional<std::vector<std::uint32_t>>& alignments,
                            const std::optional<std::vector<std::uint64_t>>& destinations,
                            const py::object& keep,
                            const std::map<std::size_t, PyStrides>& strides) {
  if (offsets.size() != sizes.size() || (alignments && alignments->size() != sizes.size()) ||
      (destinations && destinations->size() != sizes.size())) {
    throw py::value_error("the lists of ranges differ in length");
  }
  FileRanges made;
  made.file = file;
  if (!keep.is_none()) made.keep = shared_object(keep);
  made.ranges.reserve(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    made.ranges.push_back({offsets[i], sizes[i],
                           destinations ? address((*destinations)[i]) : nullptr,
                           alignments ? (*alignments)[i] : 1});
  }
  for (const auto& [index, given] : strides) {
    if (index >= made.ranges.size()) throw py::value_error("strides of a range that is not there");
    made.ranges[index].strides = make_strides(given);
  }
  return made;
}

class PyStream {
 public:
  PyStream(const py::dict& options, const py::object& credentials, const py::object& retried) {
    check_not_ending();
    auto made = Options::from_environment();
    raise_if_failed(made.status());
    Options& chosen = *made;
    for (const auto& [key, value] : options) {
      const auto name = key.cast<std::string>();
      if (name == "concurrency") {
        chosen.concurrency = value.cast<int>();
        chosen.object_concurrency = 0;
      } else if (name == "chunk_bytes") {
        chosen.chunk_bytes = value.cast<std::uint64_t>();
      } else if (name == "memory_limit") {
        chosen.memory_limit = value.cast<MemoryLimit>();
      } else if (name == "fs_strategy") {
        auto preference = parse_fs_strategy(value.cast<std::string>());
        raise_if_failed(preference.status());
        chosen.fs_strategy.strategy = preference->strategy;
      } else if (name == "source") {
        chosen.source = value.cast<std::map<std::string, std::string>>();
      } else {
        throw py::key_error(name);
      }
    }
    chosen.credentials = wrap_provider(credentials, ended_);
    pending_ = std::make_shared<PendingInterrupt>(retried);
    chosen.retried = pending_->retries().listener();
    chosen.interrupted = [pending = pending_] { return pending->check(); };
    auto stream = Stream::create(std::move(chosen));
    raise_if_failed(stream.status());
    stream_ = std::shared_ptr<Stream>(std::move(*stream));
    live().insert(this);
  }
  ~PyStream() {
    live().erase(this);
    (void)end();
  }

  // Ends all streams, while their threads can still run.
  static void end_all() {
    std::vector<py::object> held;
    for (PyStream* stream : live()) {
      stream->cancel();
      held.push_back(py::cast(stream, py::return_value_policy::reference));
    }
    for (const py::object& stream : held) (void)stream.cast<PyStream&>().end();
  }
  PyStream(const PyStream&) = delete;
  PyStream& operator=(const PyStream&) = delete;

  std::uint32_t open_begin(const std::vector<std::string>& paths, std::uint64_t prefix_bytes,
                           const std::vector<std::string>& versions) {
    return *call([&](Stream& stream) { return stream.open_begin(paths, prefix_bytes, versions); });
  }

  py::list opened(std::uint32_t first) {
    auto files = call([&](Stream& stream) { return stream.opened(first); });
    py::list opened;
    for (OpenedFile& file : *files) {
      const Bytes prefix = std::move(file.prefix);  // not held twice for long
      opened.append(
          PyOpenedFile{file.size, file.version,
                       py::bytes(reinterpret_cast<const char*>(prefix.data()), prefix.size()),
                       exception_or_none(file.status)});
    }
    return opened;
  }

  std::uint64_t read_begin(const std::vector<FileRanges>& wanted) {
    return *call([&](Stream& stream) { return stream.read_begin(wanted); });
  }

  py::bytes read_next(std::uint64_t reading) {
    const auto bytes = call([&](Stream& stream) { return stream.read_next(reading); });
    return py::bytes(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  }

  std::uint64_t submit(std::vector<FileRanges> wanted, DeviceType device_type, int ordinal,
                       std::uint64_t device_stream, Ownership ownership) {
    for (FileRanges& file : wanted) file.ownership = ownership;
    const Device device{device_type, ordinal, address(device_stream)};
    return *call([&](Stream& stream) { return stream.submit(std::move(wanted), device); });
  }

  py::tuple next(std::int64_t timeout_ms) {
    const auto timeout =
        timeout_ms < 0 ? std::chrono::milliseconds::max() : std::chrono::milliseconds(timeout_ms);
    auto batch = call([&](Stream& stream) { return stream.next(timeout); });
    return py::make_tuple(to_python(&*batch), batch->finished);
  }

  // Raises if the file was changed since it was opened, or the streamer is closed.
  void check(std::uint32_t file) { raise_if_failed(get()->unchanged(file)); }

  // check() of one file, for each tensor: it costs little more than its system call.
  static py::object checker(const py::object& stream, std::uint32_t file) {
    static PyMethodDef definition{"check", &PyStream::call_check, METH_NOARGS, nullptr};
    const py::capsule self(new Check{stream, &stream.cast<PyStream&>(), file},
                           [](void* check) { delete static_cast<Check*>(check); });
    PyObject* const made = PyCFunction_New(&definition, self.ptr());
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  }

  void cancel() {
    *ended_ = true;
    if (stream_) stream_->cancel();
  }

  // A call that another thread is in ends, and takes the stream down when it does. Raises if
  // tensors could not be made independent of their files; the streamer is closed then, too.
  void close() {
    const Status status = end();
    pending_->raise();
    raise_if_failed(status);
  }

  Status end() {
    std::shared_ptr<Stream> stream = std::move(stream_);
    if (!stream) return {};
    if (getpid() != process_) return {};
    const WithoutGil released;
    *ended_ = true;
    stream->cancel();
    Status status = stream->detach_views();
    last_stats_ = stream->stats();
    stream.reset();
    return status;
  }

  py::dict stats() const {
    const Stats stats = stream_ ? stream_->stats() : last_stats_;
    py::dict by_source;
    for (int kind = 0; kind < kSourceKinds; ++kind) {
      if (stats.bytes_by_source[kind] > 0) {
        by_source[source_kind_name(static_cast<SourceKind>(kind))] = stats.bytes_by_source[kind];
      }
    }
    py::dict result;
    result["bytes"] = stats.bytes;
    result["bytes_asked"] = stats.bytes_asked;
    result["bytes_read"] = stats.bytes_read;
    result["seconds"] = stats.seconds;
    result["bytes_by_source"] = by_source;
    result["bytes_by_strategy"] = stats.bytes_by_strategy;
    result["requests"] = stats.requests;
    result["retries"] = stats.retries;
    result["stragglers"] = stats.stragglers;
    result["wait_storage_seconds"] = stats.wait_storage_seconds;
    result["wait_consumer_seconds"] = stats.wait_consumer_seconds;
    result["wait_memory_seconds"] = stats.wait_memory_seconds;
    result["peak_memory"] = stats.peak_memory;
    result["memory_limit"] =
        stats.memory_limit == UINT64_MAX ? py::object(py::none()) : py::cast(stats.memory_limit);
    result["threads"] = stats.threads;
    result["concurrency"] = stats.concurrency;
    result["bound"] = stats.bound;
    result["notes"] = stats.notes;
    return result;
  }

 private:
  // With the GIL held. Lives as long as the process: objects may be freed when it ends.
  static std::unordered_set<PyStream*>& live() {
    static auto* const streams = new std::unordered_set<PyStream*>;
    return *streams;
  }

  struct Check {
    py::object keep;
    PyStream* stream;
    std::uint32_t file;
  };
  static PyObject* call_check(PyObject* self, PyObject* /*no arguments*/) {
    const auto* check = static_cast<Check*>(PyCapsule_GetPointer(self, nullptr));
    try {
      check->stream->check(check->file);
    } catch (py::error_already_set& error) {
      error.restore();
      return nullptr;
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return nullptr;
    }
    Py_RETURN_NONE;
  }

  std::shared_ptr<Stream> get() {
    if (!stream_) {
      raise_if_failed(Status::error(Code::kInvalid, "the streamer is closed")
                          .with_hint("Open a new one; a closed streamer can't be used again"));
    }
    return stream_;
  }

  static const Status& status_of(const Status& status) { return status; }
  template <typename T>
  static Status status_of(const Result<T>& result) {
    return result.status();
  }

  // Runs `operation` without the GIL, then raises its error.
  template <typename Operation>
  std::invoke_result_t<Operation, Stream&> call(Operation operation) {
    auto stream = get();
    auto result = [&] {
      const WithoutGil released;
      auto returned = operation(*stream);
      stream.reset();  // its end, if another thread closed it meanwhile
      return returned;
    }();
    pending_->retries().tell();
    pending_->raise();
    raise_if_failed(status_of(result));
    return result;
  }

  const pid_t process_ = getpid();
  const Ended ended_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<PendingInterrupt> pending_;
  Stats last_stats_;
};

}  // namespace

void bind_stream(py::module_& module) {
  call_at_exit(PyStream::end_all);
  py::class_<FileRanges>(module, "FileRanges")
      .def(py::init(&make_file_ranges), py::arg("file"), py::arg("offsets"), py::arg("sizes"),
           py::arg("alignments") = py::none(), py::arg("destinations") = py::none(),
           py::arg("keep") = py::none(), py::arg("strides") = std::map<std::size_t, PyStrides>());
  py::class_<PyOpenedFile>(module, "OpenedFile")
      .def_readonly("size", &PyOpenedFile::size)
      .def_readonly("version", &PyOpenedFile::version)
      .def_readonly("prefix", &PyOpenedFile::prefix)
      .def_readonly("error", &PyOpenedFile::error);
  py::class_<PyReady>(module, "Ready")
      .def_readonly("submission", &PyReady::submission)
      .def_readonly("entry", &PyReady::entry)
      .def_readonly("file", &PyReady::file)
      .def_readonly("first_range", &PyReady::first_range)
      .def_readonly("count", &PyReady::count)
      .def_readonly("memory", &PyReady::memory)
      .def_readonly("positions", &PyReady::positions)
      .def_readonly("error", &PyReady::error);
  py::class_<PyStream>(module, "Stream",
                       "One load: open files, submit ranges, take what is ready in order.")
      .def(py::init<const py::dict&, const py::object&, const py::object&>(),
           py::arg("options") = py::dict(), py::arg("credentials") = py::none(),
           py::arg("retried") = py::none())
      .def("open_begin", &PyStream::open_begin, py::arg("paths"), py::arg("prefix_bytes") = 0,
           py::arg("versions") = std::vector<std::string>())
      .def("opened", &PyStream::opened, py::arg("first"))
      .def("read_begin", &PyStream::read_begin, py::arg("ranges"))
      .def("read_next", &PyStream::read_next, py::arg("reading"))
      .def("submit", &PyStream::submit, py::arg("wanted"),
           py::arg("device_type") = DeviceType::kHost, py::arg("device_ordinal") = 0,
           py::arg("device_stream") = 0, py::arg("ownership") = Ownership::kOwned)
      .def("next", &PyStream::next, py::arg("timeout_ms") = -1)
      .def("check", &PyStream::check, py::arg("file"))
      .def("checker", &PyStream::checker, py::arg("file"))
      .def("cancel", &PyStream::cancel)
      .def("close", &PyStream::close)
      .def("stats", &PyStream::stats);
}

}  // namespace streamer::python
