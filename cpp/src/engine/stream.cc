#include "streamer/stream.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/system.h"
#include "destination/destination.h"
#include "engine/memory_limit.h"
#include "engine/scheduler.h"
#include "engine/stats.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kInterruptPoll{100};

// Signals belong to the host's threads.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

Status closed() { return Status::error(Code::kCancelled, "the stream was closed"); }

Status no_memory() {
  return Status::error(Code::kOutOfMemory, "the system has no memory for a read")
      .with_hint("Give the process more memory");
}

// What `operation` returns. A worker has nobody to throw to.
template <typename Operation>
Status or_no_memory(Operation operation) {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

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

// Destinations of the caller that something is being written to, for as long as it lives.
class WriteGuard {
 public:
  explicit WriteGuard(std::atomic<int>* writes) : writes_(writes) {
    if (writes_ != nullptr) ++*writes_;
  }
  WriteGuard(WriteGuard&& other) noexcept : writes_(std::exchange(other.writes_, nullptr)) {}
  WriteGuard& operator=(WriteGuard&&) = delete;
  ~WriteGuard() {
    if (writes_ != nullptr) --*writes_;
  }

 private:
  std::atomic<int>* writes_;
};

// How long a stream that is closed waits for workers that the storage holds.
constexpr milliseconds kEndWithin{500};

}  // namespace

// Each worker owns it, too: the last one to end takes it down where a stream left workers behind.
class Stream::Impl : public std::enable_shared_from_this<Stream::Impl> {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)),
        budget_(std::make_shared<MemoryBudget>(initial_memory_limit(options_.memory_limit))),
        pool_(BlockPool::create(budget_)),
        scheduler_(std::make_shared<Scheduler>(budget_, pool_, options_.memory_limit,
                                               [this] { spawn(); })) {
    pool_->set_listener(scheduler_);
    if (options_.credentials) {
      // The provider is promised one call at a time.
      auto provider = options_.credentials;
      auto mutex = std::make_shared<std::mutex>();
      options_.credentials = [provider, mutex](const CredentialsRequest& request) {
        const std::lock_guard lock(*mutex);
        return provider(request);
      };
    }
  }

  ~Impl() {
    for (auto& destination : destinations_) destination.second.reset();
    pool_->close();
  }

  // Ends the workers; see ~Stream().
  void shut_down() {
    cancel();
    std::unique_lock lock(threads_mutex_);
    closing_ = true;
    const auto deadline = std::chrono::steady_clock::now() + kEndWithin;
    while (running_ > 0 && (writes_ > 0 || std::chrono::steady_clock::now() < deadline)) {
      ended_.wait_for(lock, milliseconds(20));
    }
    const bool all = running_ == 0;
    for (std::thread& thread : threads_) {
      if (all) {
        thread.join();
      } else {
        thread.detach();
      }
    }
    threads_.clear();
  }

  // Whether this is another process than the one that made the stream.
  bool foreign() const { return getpid() != process_; }

  void cancel() noexcept {
    if (foreign()) return;
    cancel_.cancel();
    scheduler_->cancel(closed());
  }

  Result<std::vector<OpenedFile>> open(const std::vector<std::string>& paths,
                                       std::uint64_t prefix_bytes);
  Status read(const std::vector<FileRanges>& wanted);
  Result<std::uint64_t> submit(std::vector<FileRanges> entries, Device device);
  Result<Batch> next(milliseconds timeout);
  Status unchanged(std::uint32_t file) const {
    if (file >= files_.size() || !files_[file].object) return {};
    return files_[file].object->unchanged();
  }

  Stats stats() const {
    if (foreign()) return {};
    Stats stats = stats_.snapshot(scheduler_->times(), *budget_);
    stats.threads = scheduler_->workers();
    stats.concurrency = scheduler_->concurrency();
    const std::lock_guard lock(destinations_mutex_);
    for (const auto& [ordinal, destination] : destinations_) destination->describe(&stats.notes);
    return stats;
  }

 private:
  // A worker's connections.
  class Worker {
   public:
    explicit Worker(Impl* impl) : impl_(impl) {}
    ~Worker() {
      readers_ = {};
      impl_->budget_->give_back(reader_bytes_);
    }
    Result<Reader*> reader(SourceKind kind);

   private:
    Impl* impl_;
    std::array<std::unique_ptr<Reader>, kSourceKinds> readers_;
    std::uint64_t reader_bytes_ = 0;
  };
  static thread_local Worker* worker_;

  void spawn();
  void work();
  void run(const Chunk& chunk);
  void run_on_device(const Chunk& chunk, Reader* reader);
  void finish(const Chunk& chunk, Status status, const ReadReport& report);
  Status ensure_source(SourceKind kind);
  static bool kept(const Chunk& chunk);
  Status wait(Latch* latch);
  Result<Destination*> destination(Device device);

  const pid_t process_ = getpid();
  Options options_;
  CancelToken cancel_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<BlockPool> pool_;
  const std::shared_ptr<Scheduler> scheduler_;
  StatsCollector stats_;
  std::array<std::unique_ptr<Source>, kSourceKinds> sources_;
  mutable std::mutex destinations_mutex_;
  std::map<int, std::unique_ptr<Destination>> destinations_;  // by ordinal
  std::vector<FileState> files_;
  std::uint64_t submissions_ = 0;

  std::atomic<int> writes_{0};  // to destinations that only the caller keeps
  std::mutex threads_mutex_;
  std::condition_variable ended_;
  std::vector<std::thread> threads_;
  int running_ = 0;  // of them
  bool closing_ = false;
};

thread_local Stream::Impl::Worker* Stream::Impl::worker_ = nullptr;

Result<Reader*> Stream::Impl::Worker::reader(SourceKind kind) {
  auto& reader = readers_[static_cast<int>(kind)];
  if (!reader) {
    Source& source = *impl_->sources_[static_cast<int>(kind)];
    auto made = source.make_reader();
    if (!made) return made.status();
    reader = std::move(*made);
    const std::uint64_t bytes = source.traits().reader_bytes;
    impl_->budget_->take(bytes);
    reader_bytes_ += bytes;
  }
  return reader.get();
}

void Stream::Impl::spawn() {
  const std::lock_guard lock(threads_mutex_);
  if (closing_) return;
  const BlockedSignals blocked;
  ++running_;
  try {
    threads_.emplace_back([self = shared_from_this()] {
      self->work();
      const std::lock_guard ending(self->threads_mutex_);
      --self->running_;
      self->ended_.notify_all();
    });
  } catch (const std::system_error&) {
    --running_;
    scheduler_->worker_missing();
    stats_.note("threads", "the system gave fewer than were wanted");
  }
}

void Stream::Impl::work() {
  pthread_setname_np(pthread_self(), "streamer");
  Worker worker(this);
  worker_ = &worker;
  while (Job job = scheduler_->take()) {
    if (job.task) {
      job.task();
    } else {
      run(*job.chunk);
    }
  }
  worker_ = nullptr;
}

void Stream::Impl::run(const Chunk& chunk) try {
  ReadReport report;
  auto reader = worker_->reader(chunk.kind);
  if (!reader) {
    finish(chunk, reader.status(), report);
  } else if (chunk.placement == Placement::kDevice) {
    run_on_device(chunk, *reader);
  } else if (chunk.placement == Placement::kView) {
    Status status = (*reader)->fault_in(*chunk.object, chunk.offset, chunk.size, &report);
    finish(chunk, std::move(status), report);
  } else {
    const WriteGuard guard(chunk.placement == Placement::kCaller && !kept(chunk) ? &writes_
                                                                                 : nullptr);
    Status status = cancel_.cancelled()
                        ? closed()
                        : (*reader)->read(*chunk.object, chunk.offset, chunk.segments, &report);
    finish(chunk, std::move(status), report);
  }
} catch (const std::bad_alloc&) {
  finish(chunk, no_memory(), {});
}

bool Stream::Impl::kept(const Chunk& chunk) {
  const auto kept = [](const Chunk::Share& share) {
    return share.block->submission->entries[share.block->entry].keep != nullptr;
  };
  return std::all_of(chunk.shares.begin(), chunk.shares.end(), kept);
}

void Stream::Impl::run_on_device(const Chunk& chunk, Reader* reader) {
  ReadReport report;
  Destination& destination = *chunk.destination;
  if (destination.reads_files()) {
    const WriteGuard guard(&writes_);
    const int fd = cancel_.cancelled() ? -1 : chunk.object->device_fd();
    if (fd >= 0 && destination.read_file(fd, chunk.offset, chunk.segments)) {
      report.strategy = "gpudirect";
      finish(chunk, {}, report);
      return;
    }
  }
  auto slot = destination.stage(chunk.size, chunk.offset, cancel_);
  if (!slot) {
    finish(chunk, slot.status(), report);
    return;
  }
  const iovec staged{slot->data, chunk.size};
  Status status = reader->read(*chunk.object, chunk.offset, {&staged, 1}, &report);
  auto guard = std::make_shared<WriteGuard>(&writes_);
  if (status.ok() && cancel_.cancelled()) status = closed();  // the device's memory may be gone
  if (!status.ok()) {
    destination.discard(*slot);
    finish(chunk, std::move(status), report);
    return;
  }
  // The connection is free for the next read while this one is copied.
  scheduler_->read_ended(chunk, report.congested);
  auto shared = std::make_shared<Chunk>(chunk);
  shared->reading = false;
  destination.copy(*slot, chunk.segments, [this, shared, report, guard](Status copied) mutable {
    finish(*shared, std::move(copied), report);
    guard.reset();
  });
}

void Stream::Impl::finish(const Chunk& chunk, Status status, const ReadReport& report) {
  if (status.ok()) {
    stats_.read(report, chunk.size);
  } else {
    status = std::move(status).with_path(chunk.object->path()).with_range(chunk.offset, chunk.size);
  }
  scheduler_->complete(chunk, status, report.congested);
}

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
      kind, {chunk, view_chunk, ConcurrencyController(options_.concurrency_for(kind), traits), 0});
  return {};
}

Status Stream::Impl::wait(Latch* latch) {
  std::unique_lock lock(latch->mutex);
  while (latch->left > 0) {
    latch->finished.wait_for(lock, kInterruptPoll);
    if (latch->left == 0) break;
    if (cancel_.cancelled()) return closed();
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

Result<Destination*> Stream::Impl::destination(Device device) {
  if (const auto known = destinations_.find(device.ordinal); known != destinations_.end()) {
    return known->second.get();
  }
  auto made = make_destination(device, options_, *budget_);
  if (!made) return made.status();
  const std::lock_guard lock(destinations_mutex_);
  return destinations_.emplace(device.ordinal, std::move(*made)).first->second.get();
}

Result<std::uint64_t> Stream::Impl::submit(std::vector<FileRanges> entries, Device device) {
  auto submission = std::make_shared<Submission>();
  submission->id = submissions_;
  submission->device = device;
  submission->entries = std::move(entries);
  if (device.type != DeviceType::kHost) {
    auto made = destination(device);
    if (!made) return made.status();
    submission->destination = *made;
    submission->max_chunk = (*made)->max_slot_bytes();
    if (Status status = (*made)->fence(device.stream); !status.ok()) return status;
    for (const FileRanges& entry : submission->entries) {
      if (entry.file < files_.size() && files_[entry.file].object) {
        files_[entry.file].object->expect_passing_reads();
      }
    }
  }
  std::vector<Block> blocks;
  const auto limit = options_.memory_limit > 0 ? static_cast<std::uint64_t>(options_.memory_limit)
                                               : MemoryBudget::kUnlimited;
  if (Status status = plan_blocks(submission, limit, &files_, &blocks); !status.ok()) {
    return status;
  }
  stats_.started();
  if (Status status = scheduler_->add_blocks(std::move(blocks), files_); !status.ok()) {
    return status;
  }
  return submissions_++;
}

Result<Batch> Stream::Impl::next(milliseconds timeout) {
  const auto deadline = timeout == milliseconds::max()
                            ? std::chrono::steady_clock::time_point::max()
                            : std::chrono::steady_clock::now() + timeout;
  Batch batch;
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    milliseconds slice = timeout;
    if (timeout != milliseconds::max()) {
      slice = std::max(milliseconds(0),
                       std::chrono::duration_cast<milliseconds>(deadline - now) + milliseconds(1));
    }
    if (options_.interrupted) slice = std::min(slice, kInterruptPoll);
    auto blocks = scheduler_->next(slice, &batch.finished);
    if (!blocks) return blocks.status();
    const Object* checked = nullptr;
    Status unchanged;
    for (Block& block : *blocks) {
      const FileState& file = files_[block.file];
      if (file.object && file.object.get() != checked) {
        checked = file.object.get();
        unchanged = checked->unchanged();
      }
      Ready ready;
      ready.submission = block.submission->id;
      ready.entry = block.entry;
      ready.file = block.file;
      ready.first_range = block.first;
      ready.count = block.count;
      ready.status = std::move(block.status);
      if (ready.status.ok() && file.object) ready.status = unchanged;
      if (ready.status.ok()) {
        stats_.delivered(file.kind, block.bytes);
        if (block.placement == Placement::kPool) {
          ready.data = block.data;
          ready.data_size = block.data_bytes;
          ready.positions = std::move(block.positions);
          ready.memory = std::move(block.memory);
        } else if (block.placement == Placement::kView) {
          ready.data = block.data;
          ready.data_size = block.data_bytes;
          ready.view = true;
          ready.positions = std::move(block.positions);
          const std::uint64_t offset = block.range(block.first).offset;
          ready.memory =
              std::shared_ptr<void>(block.data, [object = file.object, offset, size = block.bytes](
                                                    void*) { object->drop_view(offset, size); });
        }
      }
      batch.ready.push_back(std::move(ready));
    }
    if (!batch.ready.empty() || batch.finished) return batch;
    if (std::chrono::steady_clock::now() >= deadline) return batch;
    if (options_.interrupted && options_.interrupted()) {
      return Status::error(Code::kCancelled, "interrupted");
    }
  }
}

Stream::Stream(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Stream::~Stream() {
  // A forked child has the object, but not the threads: there is nothing to join and no lock to
  // trust.
  if (impl_->foreign()) {
    new std::shared_ptr<Impl>(std::move(impl_));  // NOLINT: never dropped
    return;
  }
  impl_->shut_down();
}

Result<std::unique_ptr<Stream>> Stream::create(Options options) {
  if (Status status = check_options(options); !status.ok()) return status;
  return std::unique_ptr<Stream>(new Stream(std::make_shared<Impl>(std::move(options))));
}

namespace {
Status forked() {
  return Status::error(Code::kInvalid,
                       "the stream belongs to the process that this one forked from")
      .with_hint("Open a new one in the child");
}
}  // namespace

Result<std::vector<OpenedFile>> Stream::open(const std::vector<std::string>& paths,
                                             std::uint64_t prefix_bytes) {
  if (impl_->foreign()) return forked();
  return impl_->open(paths, prefix_bytes);
}
Status Stream::read(const std::vector<FileRanges>& wanted) {
  if (impl_->foreign()) return forked();
  return impl_->read(wanted);
}
Result<std::uint64_t> Stream::submit(std::vector<FileRanges> entries, Device device) {
  if (impl_->foreign()) return forked();
  return impl_->submit(std::move(entries), device);
}
Result<Batch> Stream::next(milliseconds timeout) {
  if (impl_->foreign()) return forked();
  return impl_->next(timeout);
}
Status Stream::unchanged(std::uint32_t file) const {
  if (impl_->foreign()) return forked();
  return impl_->unchanged(file);
}
void Stream::cancel() noexcept { impl_->cancel(); }
Stats Stream::stats() const { return impl_->stats(); }

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
