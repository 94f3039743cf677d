#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <new>
#include <system_error>

#include "base/clock.h"
#include "engine/stream_impl.h"

namespace streamer {
namespace {

using std::chrono::milliseconds;

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

void Stream::Impl::shut_down() {
  cancel();
  std::unique_lock lock(threads_mutex_);
  closing_ = true;
  const auto deadline = Clock::now() + kEndWithin;
  while (running_ > 0 && (writes_ > 0 || Clock::now() < deadline)) {
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

void Stream::Impl::run(Chunk& chunk) try {
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
    Status status =
        cancel_.cancelled() ? stream_closed() : read(chunk, *reader, chunk.segments, &report);
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

// What a read that was cut did not get is another chunk from then on.
Status Stream::Impl::read(Chunk& chunk, Reader* reader, std::span<const iovec> segments,
                          ReadReport* report) {
  report->progress = chunk.progress.get();
  Status status = reader->read(*chunk.object, chunk.offset, segments, report);
  report->progress = nullptr;
  if (status.ok() && report->missing > 0) {
    scheduler_->put_back(cut_off(&chunk, chunk.size - report->missing));
  }
  return status;
}

void Stream::Impl::run_on_device(Chunk& chunk, Reader* reader) {
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
  Status status = read(chunk, reader, {&staged, 1}, &report);
  auto guard = std::make_shared<WriteGuard>(&writes_);
  if (status.ok() && cancel_.cancelled())
    status = stream_closed();  // the device's memory may be gone
  if (!status.ok() || chunk.size == 0) {
    destination.discard(*slot);
    finish(chunk, std::move(status), report);
    return;
  }
  // The connection is free for the next read while this one is copied.
  scheduler_->read_ended(chunk, report);
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
  scheduler_->complete(chunk, status, report);
}

}  // namespace streamer
