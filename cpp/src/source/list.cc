#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/blocked_signals.h"
#include "base/cancel.h"
#include "base/interrupt_poll.h"
#include "source/source.h"
#include "streamer/storage.h"
#include "streamer/stream.h"

namespace streamer {
namespace {

struct SourceReader {
  std::unique_ptr<Source> source;  // outlives the reader
  std::unique_ptr<Reader> reader;
};

Result<SourceReader> open_source(SourceKind kind, const SourceContext& context) {
  auto source = make_source(kind, context);
  if (!source.ok()) return source.status();
  auto reader = (*source)->make_reader();
  if (!reader.ok()) return reader.status();
  return SourceReader{std::move(*source), std::move(*reader)};
}

Result<std::vector<ListedObject>> list_until_cancelled(const std::string& prefix, bool recursive,
                                                       const Options& options,
                                                       const CancelToken& cancel) {
  auto kind = source_kind_of(prefix);
  if (!kind.ok()) return kind.status();
  const SourceContext context{.options = options, .cancel = cancel};
  auto opened = open_source(*kind, context);
  if (!opened.ok()) return opened.status();
  const auto place = opened->reader->local_copy(prefix, /*directory=*/true);
  if (!place.ok()) return place.status().with_path(prefix);
  if (*place != prefix) {
    opened->reader.reset();
    opened = open_source(SourceKind::kFile, context);
    if (!opened.ok()) return opened.status();
  }
  std::vector<ListedObject> found;
  Status status = opened->reader->list(*place, recursive, [&](ListedObject object) {
    if (*place != prefix) {
      object.path = prefix + object.path.substr(std::min(place->size(), object.path.size()));
    }
    found.push_back(std::move(object));
  });
  if (!status.ok()) return std::move(status).with_path(prefix);
  std::sort(found.begin(), found.end(),
            [](const ListedObject& a, const ListedObject& b) { return a.path < b.path; });
  return found;
}

// Runs `work` on a thread of its own, and cancels it once `interrupted` returns true, which is
// called on the thread of the caller only.
template <typename Work>
void run_interruptibly(CancelToken* cancel, const std::function<bool()>& interrupted, Work work) {
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  std::thread worker;
  {
    const BlockedSignals blocked;
    worker = std::thread([&] {
      work();
      const std::lock_guard lock(mutex);
      done = true;
      finished.notify_one();
    });
  }
  std::unique_lock lock(mutex);
  while (!finished.wait_for(lock, kInterruptPoll, [&] { return done; })) {
    lock.unlock();
    if (!cancel->cancelled() && interrupted()) cancel->cancel();
    lock.lock();
  }
  lock.unlock();
  worker.join();
}

// The result of `work`, unless `options` interrupt it. `path` is for errors.
template <typename T, typename Work>
Result<T> interruptible(const std::string& path, const Options& options, const Work& work) {
  CancelToken cancel;
  if (!options.interrupted) return work(cancel);
  Result<T> found = Status();
  try {
    run_interruptibly(&cancel, options.interrupted, [&] {
      try {
        found = work(cancel);
      } catch (const std::bad_alloc&) {
        found = Status::error(Code::kOutOfMemory, "the system has no memory for the list")
                    .with_path(path);
      } catch (const std::exception& error) {
        found = Status::error(Code::kInternal, error.what()).with_path(path);
      }
    });
  } catch (const std::system_error& error) {
    return Status::error(Code::kIo, "the system has no thread for the list")
        .with_errno(error.code().value())
        .with_path(path);
  }
  return found;
}

}  // namespace

Result<std::vector<ListedObject>> list(const std::string& prefix, bool recursive,
                                       const Options& options) {
  return interruptible<std::vector<ListedObject>>(prefix, options, [&](const CancelToken& cancel) {
    return list_until_cancelled(prefix, recursive, options, cancel);
  });
}

Result<Access> find_access(const std::string& path, const Options& options) {
  return interruptible<Access>(path, options, [&](const CancelToken& cancel) -> Result<Access> {
    auto kind = source_kind_of(path);
    if (!kind.ok()) return kind.status();
    auto opened = open_source(*kind, {options, cancel});
    if (!opened.ok()) return opened.status();
    return opened->reader->access(path);
  });
}

}  // namespace streamer
