#include "streamer/stream.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <map>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/system.h"
#include "destination/destination.h"
#include "engine/file_set.h"
#include "engine/held_views.h"
#include "engine/opener.h"
#include "engine/options.h"
#include "engine/reader_memory.h"
#include "engine/scheduler.h"
#include "engine/stats.h"
#include "engine/statuses.h"
#include "engine/worker.h"
#include "engine/worker_threads.h"
#include "source/lost_pages.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

// The provider must not be called concurrently.
CredentialsProvider one_at_a_time(CredentialsProvider provider) {
  if (!provider) return provider;
  auto mutex = std::make_shared<Mutex>();
  return [provider = std::move(provider), mutex](const CredentialsRequest& request) {
    const MutexLock lock(*mutex);
    return provider(request);
  };
}

Options prepared(Options options) {
  options.credentials = one_at_a_time(std::move(options.credentials));
  return options;
}

Clock::time_point after(milliseconds timeout) {
  const Clock::time_point now = Clock::now();
  const auto most = std::chrono::duration_cast<milliseconds>(Clock::time_point::max() - now);
  return timeout < most ? now + timeout : Clock::time_point::max();
}

}  // namespace

// Workers share it: if a stream left workers behind, the last one to end destroys it.
class Stream::Impl : public std::enable_shared_from_this<Stream::Impl> {
 public:
  explicit Impl(Options options)
      : options_(prepared(std::move(options))),
        budget_(std::make_shared<MemoryBudget>(options_.memory_limit.initial())),
        pool_(MemoryPool::create(budget_)),
        scheduler_(std::make_shared<Scheduler>(budget_, pool_, options_.memory_limit,
                                               [this](WorkerId worker) { start_worker(worker); })),
        views_(std::make_shared<HeldViews>(budget_)),
        readers_(*budget_),
        files_(options_, cancel_, budget_.get(),
               [this](SourceKind kind, const SourceTraits& traits) { add_source(kind, traits); }),
        opener_(options_, files_, *scheduler_, *budget_, readers_, cancel_, pool_->slabs()),
        worker_context_{files_, *scheduler_, readers_, stats_, cancel_, writes_} {
    pool_->set_listener(scheduler_);
  }
  ~Impl() {
    for (auto& [device, destination] : destinations_) destination.reset();
    pool_->close();
  }

  // Ends the workers; see ~Stream().
  void shut_down() {
    cancel();
    try {
      (void)detach_views();
    } catch (const std::bad_alloc&) {  // the views are not detached
    }
    threads_.end(writes_);
  }

  // True if this is another process than the one that made the stream.
  bool foreign() const { return getpid() != process_; }

  void cancel() noexcept {
    cancel_.cancel();
    scheduler_->close();
  }
  void wake() noexcept { scheduler_->wake(); }

  Opener& opener() { return opener_; }
  Result<std::uint64_t> submit(std::vector<FileRanges> entries, Device device)
      EXCLUDES(submit_mutex_);
  Result<Batch> next(milliseconds timeout);
  Status detach_views() { return detach_all({}); }
  Status unchanged(std::uint32_t index) const {
    const auto file = files_.at(index);
    if (!file || !file->object) return {};
    Status status = file->object->unchanged();
    if (!status.ok()) (void)views_->mark_changed(file->object.get());
    return status;
  }
  Stats stats() const EXCLUDES(destinations_mutex_);

 private:
  void start_worker(WorkerId worker);
  void add_source(SourceKind kind, const SourceTraits& traits);
  void make_room(const Plan& plan);
  Result<Destination*> destination(Device device) EXCLUDES(destinations_mutex_);
  Status lost_pages();
  Status detach_all(const std::function<bool()>& interrupted);
  Batch batch_of(std::vector<Block> blocks);
  Ready ready_of(Block& block, const Status& unchanged);

  const pid_t process_ = getpid();
  const Options options_;
  CancelToken cancel_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<MemoryPool> pool_;
  const std::shared_ptr<Scheduler> scheduler_;
  StatsCollector stats_;
  const std::shared_ptr<HeldViews> views_;
  ReaderQuota readers_;
  FileSet files_;
  Opener opener_;

  Mutex submit_mutex_;  // held as long as one submission takes; no worker waits for it
  std::uint64_t submissions_ GUARDED_BY(submit_mutex_) = 0;
  mutable Mutex destinations_mutex_;
  std::map<std::pair<DeviceType, int>, std::unique_ptr<Destination>> destinations_
      GUARDED_BY(destinations_mutex_);

  std::atomic<std::uint64_t> lost_pages_seen_{lost_page_count()};
  std::atomic<int> writes_{0};  // see WorkerContext
  const WorkerContext worker_context_;
  WorkerThreads threads_;
};

void Stream::Impl::start_worker(WorkerId worker) {
  const bool started = threads_.start(
      [self = shared_from_this(), worker] { Worker(worker, self->worker_context_).run(); });
  if (started) return;
  scheduler_->worker_not_started();
  stats_.note("threads", "the system gave fewer than were wanted");
}

void Stream::Impl::add_source(SourceKind kind, const SourceTraits& traits) {
  const AutomaticLimit automatic = automatic_memory_limit(traits.window_bytes);
  if (options_.memory_limit.kind() == MemoryLimit::Kind::kAutomatic) {
    budget_->set_limit(std::max(budget_->limit(), automatic.first));
  }
  const std::uint64_t chunk = options_.chunk_bytes > 0 ? options_.chunk_bytes : traits.chunk_bytes;
  int chosen = options_.concurrency_for(kind);
  const bool exact = options_.memory_limit.kind() == MemoryLimit::Kind::kBytes;
  const SourceTraits paid = exact ? set_aside_for_readers(traits, &chosen, budget_.get()) : traits;
  const int most = chosen > 0 ? chosen : paid.max_concurrency;
  const bool bounded = exact && traits.reader_bytes > 0;
  readers_.add_source(kind, bounded ? most : ReaderQuota::kNoLimit,
                      traits.reader_bytes - traits.counted_by_reader, traits.counted_by_reader);
  scheduler_->add_source(
      kind, {.chunk_bytes = std::max(chunk, traits.min_chunk_bytes),
             .view_chunk_bytes = std::max(options_.chunk_bytes, traits.view_chunk_bytes),
             .controller = ConcurrencyController(chosen, paid, usable_processors()),
             .stragglers = traits.stragglers,
             .skips_gaps = traits.skips_gaps,
             .reader_bytes = traits.reader_bytes,
             .most_readers = readers_.most(kind),
             .most_window = automatic.most,
             .most_chunk = options_.chunk_bytes > 0 ? 0 : traits.max_chunk_bytes,
             .reads = traits.reads,
             .refusals = traits.refusals});
}

Result<Destination*> Stream::Impl::destination(Device device) {
  {
    const MutexLock lock(destinations_mutex_);
    const auto known = destinations_.find({device.type, device.ordinal});
    if (known != destinations_.end()) return known->second.get();
  }
  auto made = make_destination(device, options_, *budget_);
  if (!made.ok()) return made.status();
  const MutexLock lock(destinations_mutex_);
  const std::pair name(device.type, device.ordinal);
  Destination* const destination =
      destinations_.emplace(name, std::move(*made)).first->second.get();
  for (const auto& [key, each] : destinations_) each->share(destinations_.size());
  return destination;
}

// The largest block fits into an explicit limit beside the readers.
void Stream::Impl::make_room(const Plan& plan) {
  const std::optional<Block>& largest = plan.largest();
  if (!largest || options_.memory_limit.kind() != MemoryLimit::Kind::kBytes) return;
  readers_.make_room(MemoryPool::capacity_for(largest->data_bytes));
  for (int kind = 0; kind < kSourceKinds; ++kind) {
    scheduler_->bound_reads(static_cast<SourceKind>(kind),
                            readers_.most(static_cast<SourceKind>(kind)));
  }
}

Result<std::uint64_t> Stream::Impl::submit(std::vector<FileRanges> entries, Device device) {
  const MutexLock lock(submit_mutex_);
  auto submission = std::make_shared<Submission>();
  submission->id = submissions_;
  submission->device = device;
  submission->entries = std::move(entries);
  submission->views = views_;
  if (Status status = files_.find(submission.get()); !status.ok()) return status;
  if (device.type != DeviceType::kHost) {
    auto made = destination(device);
    if (!made.ok()) return made.status();
    submission->destination = *made;
    submission->max_chunk = (*made)->max_slot_bytes();
    if (Status status = (*made)->fence(device.stream); !status.ok()) return status;
    for (const auto& file : submission->files) {
      if (file->object) file->object->advise_read_once();
    }
  }
  // Small ranges share at most a half of an explicit limit, which leaves room for connections.
  auto plan = Plan::make(submission, options_.memory_limit.largest_block() / 2);
  if (!plan.ok()) return plan.status();
  make_room(*plan);
  stats_.started(plan->bytes());
  for (const auto& file : submission->files) {
    if (!file->object) continue;
    auto source = files_.source(file->kind);
    if (source.ok()) scheduler_->start_concurrency(file->kind, (*source)->proximity());
  }
  if (Status status = scheduler_->add(std::move(*plan)); !status.ok()) return status;
  return submissions_++;
}

// Ready blocks are lost if there is no memory to describe them.
Result<Batch> Stream::Impl::next(milliseconds timeout) try {
  const Clock::time_point deadline = after(timeout);
  if (Status status = lost_pages(); !status.ok()) return status;
  if (Status status = views_->detach_left(options_.interrupted); !status.ok()) return status;
  for (;;) {
    const Clock::time_point poll = Clock::now() + kInterruptPoll;
    const bool polls = options_.interrupted && poll < deadline;
    auto delivery = scheduler_->next(polls ? poll : deadline);
    if (!delivery.ok()) return delivery.status();
    if (!delivery->blocks.empty()) return batch_of(std::move(delivery->blocks));
    if (delivery->finished) {
      if (Status status = detach_all(options_.interrupted); !status.ok()) return status;
    }
    if (delivery->finished || delivery->woken || !polls) {
      Batch batch;
      batch.finished = delivery->finished;
      return batch;
    }
    if (options_.interrupted()) return Status::error(Code::kCancelled, "interrupted");
  }
} catch (const std::bad_alloc&) {
  scheduler_->cancel_without_memory();
  throw;
}

// An error if a thread got zeros for a page of a view that was truncated away; once for each file.
Status Stream::Impl::lost_pages() {
  const std::uint64_t count = lost_page_count();
  if (count == lost_pages_seen_.load(std::memory_order_relaxed)) return {};
  for (const auto& file : files_.all()) {
    if (!file || !file->object) continue;
    Status status = file->object->unchanged();
    if (!status.ok() && views_->mark_changed(file->object.get())) return status;
  }
  lost_pages_seen_.store(count, std::memory_order_relaxed);
  return {};
}

Status Stream::Impl::detach_all(const std::function<bool()>& interrupted) {
  Status status = views_->detach_all(interrupted);
  return status.ok() ? lost_pages() : std::move(status);
}

Batch Stream::Impl::batch_of(std::vector<Block> blocks) {
  Batch batch;
  batch.ready.reserve(blocks.size());
  views_->begin_batch();
  renew_view_guards();
  const Object* checked = nullptr;
  Status unchanged;
  for (Block& block : blocks) {
    const Object* const object = block.file().object.get();
    if (object != nullptr && object != checked) {
      checked = object;
      unchanged = object->unchanged();
    }
    batch.ready.push_back(ready_of(block, unchanged));
  }
  return batch;
}

Ready Stream::Impl::ready_of(Block& block, const Status& unchanged) {
  Ready ready;
  ready.submission = block.submission->id;
  ready.entry = block.entry;
  ready.file = block.file_index();
  ready.first_range = block.first;
  ready.count = block.count;
  ready.status = std::move(block.status);
  const FileState& file = block.file();
  if (ready.status.ok() && file.object) ready.status = unchanged;
  if (!ready.status.ok()) {
    const Code code = ready.status.code();
    if (!unchanged.ok() || code == Code::kChanged || code == Code::kShortRead) {
      (void)views_->mark_changed(file.object.get());
    }
    return ready;
  }
  stats_.delivered(file.kind, block.bytes);
  if (block.memory != BlockMemory::kPool && block.memory != BlockMemory::kView) return ready;
  ready.data = block.data;
  ready.data_size = block.data_bytes;
  ready.positions = std::move(block.offsets);
  if (block.memory == BlockMemory::kPool) {
    ready.memory = std::move(block.buffer);
    return ready;
  }
  ready.view = true;
  ready.memory = views_->hand_out(file.object, block.range(0).offset, block.bytes, block.data,
                                  block.ownership());
  return ready;
}

Stats Stream::Impl::stats() const {
  Stats stats = stats_.snapshot(scheduler_->times(), *budget_);
  stats.threads = scheduler_->workers();
  stats.concurrency = scheduler_->concurrency();
  files_.describe(&stats.notes);
  const MutexLock lock(destinations_mutex_);
  for (const auto& [device, destination] : destinations_) destination->describe(&stats.notes);
  return stats;
}

namespace {

Status forked() {
  return Status::error(Code::kInvalid,
                       "the stream belongs to the process that this one forked from")
      .with_hint("Open a new one in the child");
}

// The result of `operation`, with an exception for memory as a status.
template <typename Operation>
auto guarded(Operation operation) -> decltype(operation()) {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

}  // namespace

Stream::Stream(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Stream::~Stream() {
  // A forked child has the object, but not the threads: there is nothing to join, and a lock may be
  // held for ever.
  if (impl_->foreign()) {
    alignas(std::shared_ptr<Impl>) unsigned char kept[sizeof(std::shared_ptr<Impl>)];
    new (kept) std::shared_ptr<Impl>(std::move(impl_));  // never dropped
    return;
  }
  impl_->shut_down();
}

Result<std::unique_ptr<Stream>> Stream::create(Options options) {
  return guarded([&]() -> Result<std::unique_ptr<Stream>> {
    if (Status status = check_options(options); !status.ok()) return status;
    return std::unique_ptr<Stream>(new Stream(std::make_shared<Impl>(std::move(options))));
  });
}

Result<std::vector<OpenedFile>> Stream::open(const std::vector<std::string>& paths,
                                             std::uint64_t prefix_bytes,
                                             const std::vector<std::string>& versions) {
  return guarded([&]() -> Result<std::vector<OpenedFile>> {
    auto first = open_begin(paths, prefix_bytes, versions);
    if (!first.ok()) return first.status();
    std::vector<OpenedFile> files;
    while (files.size() < paths.size()) {
      auto some = opened(*first + static_cast<std::uint32_t>(files.size()));
      if (!some.ok()) return some.status();
      std::move(some->begin(), some->end(), std::back_inserter(files));
    }
    return files;
  });
}
Result<std::uint32_t> Stream::open_begin(const std::vector<std::string>& paths,
                                         std::uint64_t prefix_bytes,
                                         const std::vector<std::string>& versions) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->opener().begin_open(paths, prefix_bytes, versions); });
}
Result<std::vector<OpenedFile>> Stream::opened(std::uint32_t first) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->opener().opened(first); });
}
Status Stream::read(const std::vector<FileRanges>& wanted) {
  return guarded([&]() -> Status {
    auto reading = read_begin(wanted);
    if (!reading.ok()) return reading.status();
    for (const FileRanges& file : wanted) {
      for (const Range& range : file.ranges) {
        auto bytes = read_next(*reading);
        if (!bytes.ok()) return bytes.status();
        if (range.size > 0) std::memcpy(range.destination, bytes->data(), range.size);
      }
    }
    return {};
  });
}
Result<std::uint64_t> Stream::read_begin(const std::vector<FileRanges>& wanted) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->opener().begin_read(wanted); });
}
Result<Bytes> Stream::read_next(std::uint64_t reading) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->opener().next_read(reading); });
}
Result<std::uint64_t> Stream::submit(std::vector<FileRanges> entries, Device device) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->submit(std::move(entries), device); });
}
Result<Batch> Stream::next(milliseconds timeout) {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->next(timeout); });
}
Status Stream::detach_views() {
  if (impl_->foreign()) return forked();
  return guarded([&] { return impl_->detach_views(); });
}
Status Stream::unchanged(std::uint32_t file) const {
  if (impl_->foreign()) return forked();
  return impl_->unchanged(file);
}
void Stream::wake() noexcept {
  if (!impl_->foreign()) impl_->wake();
}
void Stream::cancel() noexcept {
  if (!impl_->foreign()) impl_->cancel();
}
Stats Stream::stats() const { return impl_->foreign() ? Stats() : impl_->stats(); }

}  // namespace streamer
