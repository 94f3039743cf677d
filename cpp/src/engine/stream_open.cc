#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "engine/stream_impl.h"

namespace streamer {

// Counts tasks that run on workers for a caller that waits. Shared, since a caller that is
// interrupted leaves before them.
struct Latch {
  explicit Latch(std::size_t tasks) : left(tasks) {}
  void done() {
    const std::lock_guard lock(mutex);
    if (--left == 0) finished.notify_all();
  }
  std::mutex mutex;
  std::condition_variable finished;
  std::size_t left;
};

namespace {

// What `operation` returns. A worker has nobody to throw to.
template <typename Operation>
Status or_no_memory(Operation operation) {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

}  // namespace

Status Stream::Impl::ensure_source(SourceKind kind) {
  auto& source = sources_[static_cast<int>(kind)];
  if (source) return {};
  auto made = make_source(kind, {options_, cancel_});
  if (!made) return made.status();
  source = std::move(*made);
  const SourceTraits& traits = source->traits();
  std::uint64_t chunk = options_.chunk_bytes > 0 ? options_.chunk_bytes : traits.chunk_bytes;
  chunk = std::max(chunk, traits.min_chunk_bytes);
  if (options_.memory_limit == -2) {
    budget_->set_limit(std::max(budget_->limit(), default_memory_limit(traits.window_bytes)));
  }
  const std::uint64_t view_chunk = std::max(options_.chunk_bytes, traits.view_chunk_bytes);
  scheduler_->add_source(
      kind, {chunk, view_chunk, ConcurrencyController(options_.concurrency_for(kind), traits), 0,
             traits.hedge});
  return {};
}

Status Stream::Impl::wait(Latch* latch) {
  std::unique_lock lock(latch->mutex);
  while (latch->left > 0) {
    latch->finished.wait_for(lock, kInterruptPoll);
    if (latch->left == 0) break;
    if (cancel_.cancelled()) return stream_closed();
    if (Status fatal = scheduler_->fatal(); !fatal.ok()) return fatal;
    if (options_.interrupted) {
      lock.unlock();
      if (options_.interrupted()) return Status::error(Code::kCancelled, "interrupted");
      lock.lock();
    }
  }
  return {};
}

Result<std::vector<OpenedFile>> Stream::Impl::open(const std::vector<std::string>& paths,
                                                   std::uint64_t prefix_bytes) {
  struct Work {
    explicit Work(std::size_t files) : latch(files), opened(files), objects(files) {}
    Latch latch;
    std::vector<OpenedFile> opened;
    std::vector<std::shared_ptr<const Object>> objects;
  };
  auto work = std::make_shared<Work>(paths.size());
  std::vector<SourceKind> kinds;
  std::vector<std::string> places;  // where the paths are read from
  for (const std::string& path : paths) {
    places.push_back(find_local_copy(path, /*folder=*/false, options_));
    auto kind = source_kind_of(places.back());
    if (!kind) return kind.status();
    if (Status status = ensure_source(*kind); !status.ok()) {
      return std::move(status).with_path(path);
    }
    kinds.push_back(*kind);
  }
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const SourceTraits& traits = sources_[static_cast<int>(kinds[i])]->traits();
    const int chosen = options_.concurrency_for(kinds[i]);
    const int width = chosen > 0 ? chosen : traits.initial_concurrency;
    scheduler_->add_task(
        [work, i, path = paths[i], place = places[i], kind = kinds[i], prefix_bytes] {
          OpenedFile& file = work->opened[i];
          file.status = or_no_memory([&]() -> Status {
            auto reader = worker_->reader(kind);
            if (!reader) return reader.status();
            file.prefix.resize(prefix_bytes);
            auto opened = (*reader)->open(place, file.prefix);
            file.prefix.resize(opened ? opened->prefix_size : 0);
            if (!opened) return opened.status();
            file.size = opened->object->size();
            file.version = opened->object->version();
            work->objects[i] = std::move(opened->object);
            return {};
          });
          file.status = std::move(file.status).with_path(path);
          work->latch.done();
        },
        width);
  }
  if (Status status = wait(&work->latch); !status.ok()) return status;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    files_.push_back({paths[i], kinds[i], work->objects[i], work->opened[i].status});
  }
  return std::move(work->opened);
}

Status Stream::Impl::read(const std::vector<FileRanges>& wanted) {
  // Bytes come by way of memory that the tasks share: a caller that is interrupted may free its
  // own at once.
  struct Work {
    explicit Work(std::size_t ranges) : latch(ranges), bytes(ranges), statuses(ranges) {}
    Latch latch;
    std::vector<std::vector<std::byte>> bytes;
    std::vector<Status> statuses;
  };
  std::vector<const Range*> ranges;
  for (const FileRanges& entry : wanted) {
    if (entry.file >= files_.size())
      return Status::error(Code::kInvalid, "no such file was opened");
    if (const Status& status = files_[entry.file].status; !status.ok()) return status;
    for (const Range& range : entry.ranges) ranges.push_back(&range);
  }
  auto work = std::make_shared<Work>(ranges.size());
  std::size_t index = 0;
  for (const FileRanges& entry : wanted) {
    const FileState& file = files_[entry.file];
    const SourceTraits& traits = sources_[static_cast<int>(file.kind)]->traits();
    const int chosen = options_.concurrency_for(file.kind);
    const int width = chosen > 0 ? chosen : traits.initial_concurrency;
    for (const Range& range : entry.ranges) {
      scheduler_->add_task(
          [work, index, range, kind = file.kind, object = file.object] {
            Status status = or_no_memory([&]() -> Status {
              if (range.size == 0) return {};
              std::vector<std::byte>& bytes = work->bytes[index];
              bytes.resize(range.size);
              auto reader = worker_->reader(kind);
              if (!reader) return reader.status();
              ReadReport report;
              const iovec segment{bytes.data(), bytes.size()};
              return (*reader)->read(*object, range.offset, {&segment, 1}, &report);
            });
            work->statuses[index] =
                std::move(status).with_path(object->path()).with_range(range.offset, range.size);
            work->latch.done();
          },
          width);
      ++index;
    }
  }
  if (Status status = wait(&work->latch); !status.ok()) return status;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (!work->statuses[i].ok()) return work->statuses[i];
    if (ranges[i]->size > 0) {
      std::memcpy(ranges[i]->destination, work->bytes[i].data(), ranges[i]->size);
    }
  }
  return {};
}

Result<std::vector<ListedObject>> list(const std::string& prefix, bool recursive,
                                       const Options& options) {
  const std::string place = find_local_copy(prefix, /*folder=*/true, options);
  auto kind = source_kind_of(place);
  if (!kind) return kind.status();
  const CancelToken cancel;
  auto source = make_source(*kind, {options, cancel});
  if (!source) return source.status();
  auto reader = (*source)->make_reader();
  if (!reader) return reader.status();
  std::vector<ListedObject> found;
  Status status = (*reader)->list(place, recursive, [&](std::string path, std::uint64_t size) {
    if (place != prefix) path = prefix + path.substr(std::min(place.size(), path.size()));
    found.push_back({std::move(path), size});
  });
  if (!status.ok()) return std::move(status).with_path(prefix);
  std::sort(found.begin(), found.end(),
            [](const ListedObject& a, const ListedObject& b) { return a.path < b.path; });
  return found;
}

}  // namespace streamer
