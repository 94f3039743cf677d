#include "engine/worker.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <functional>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "base/segments.h"
#include "destination/destination.h"
#include "engine/statuses.h"

namespace streamer {
namespace {

thread_local Worker* current_worker = nullptr;

// Counts a write to a destination of the caller while it lives.
class WriteGuard {
 public:
  explicit WriteGuard(std::atomic<int>* writes) : writes_(writes) {
    if (writes_ != nullptr) ++*writes_;
  }
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;
  ~WriteGuard() {
    if (writes_ != nullptr) --*writes_;
  }

 private:
  std::atomic<int>* const writes_;
};

// True if FileRanges::keep keeps all destinations of the chunk alive.
bool kept(const Chunk& chunk) {
  return std::all_of(chunk.shares.begin(), chunk.shares.end(), [](const Chunk::Share& share) {
    return share.block->submission->entries[share.block->entry].keep != nullptr;
  });
}

// Reports the result of a chunk, in any thread.
void finish(const WorkerContext& context, const Chunk& chunk, Status status,
            const ReadReport& report) noexcept {
  try {
    if (status.ok()) {
      context.stats.read(report, chunk.size);
    } else {
      status =
          std::move(status).with_path(chunk.object->path()).with_range(chunk.offset, chunk.size);
    }
  } catch (const std::bad_alloc&) {
    context.scheduler.cancel_without_memory();
  }
  context.scheduler.complete(chunk, status, report);
}

// Returns a slot to the destination, unless a copy took it over.
class SlotGuard {
 public:
  SlotGuard(Destination& destination, StagingSlot slot) : destination_(destination), slot_(slot) {}
  SlotGuard(const SlotGuard&) = delete;
  SlotGuard& operator=(const SlotGuard&) = delete;
  ~SlotGuard() {
    if (owned_) destination_.discard(slot_);
  }
  StagingSlot release() {
    owned_ = false;
    return slot_;
  }

 private:
  Destination& destination_;
  const StagingSlot slot_;
  bool owned_ = true;
};

// A chunk that was read and is on its way to a device.
struct Copy {
  Chunk chunk;
  // They keep the destinations alive: longer than their blocks, if the copy does not end.
  std::vector<std::shared_ptr<Submission>> submissions;
  ReadReport report;
  std::optional<WriteGuard> guard;
};

}  // namespace

Worker::Worker(WorkerId id, const WorkerContext& context) : id_(id), context_(context) {}

Worker::~Worker() { drop_readers(); }

void Worker::drop_readers() noexcept {
  for (int kind = 0; kind < kSourceKinds; ++kind) {
    context_.readers.drop(static_cast<SourceKind>(kind), &readers_[kind]);
  }
}

void Worker::end_job() noexcept {
  for (int kind = 0; kind < kSourceKinds; ++kind) {
    if (readers_[kind].in_use) context_.readers.end(static_cast<SourceKind>(kind), &readers_[kind]);
  }
}

Worker& Worker::current() { return *current_worker; }

Result<Reader*> Worker::reader(SourceKind kind) {
  ReaderSlot& slot = readers_[static_cast<int>(kind)];
  auto source = context_.files.source(kind);
  if (!source.ok()) return source.status();
  if (context_.readers.begin(kind, &slot)) {
    auto made = (*source)->make_reader();
    if (!made.ok()) {
      context_.readers.drop(kind, &slot);
      return made.status();
    }
    slot.reader = std::move(*made);
  }
  return slot.reader.get();
}

void Worker::run() {
  pthread_setname_np(pthread_self(), "streamer");
  current_worker = this;
  while (Job job = context_.scheduler.take(id_)) {
    if (job.chunk) {
      serve(*job.chunk);
    } else {
      try {
        job.task();
      } catch (const std::bad_alloc&) {
        drop_readers();
        context_.scheduler.cancel_without_memory();
      }
    }
    end_job();
  }
  current_worker = nullptr;
}

void Worker::serve(Chunk& chunk) noexcept {
  ReadReport report;
  Status status;
  try {
    bool copied_later = false;
    try {
      status = read(chunk, &report, &copied_later);
    } catch (const std::bad_alloc&) {
      if (copied_later) throw;
      drop_readers();
      status = no_memory();
    }
    if (!copied_later) finish(context_, chunk, std::move(status), report);
  } catch (const std::bad_alloc&) {
    context_.scheduler.cancel_without_memory();
  }
}

Status Worker::read(Chunk& chunk, ReadReport* report, bool* copied_later) {
  auto reader = this->reader(chunk.kind);
  if (!reader.ok()) return reader.status();
  if (chunk.memory == BlockMemory::kDevice) {
    return read_to_device(chunk, *reader, report, copied_later);
  }
  if (chunk.memory == BlockMemory::kView) {
    return (*reader)->prefault(*chunk.object, chunk.offset, chunk.size, report);
  }
  const bool counts = chunk.memory == BlockMemory::kCaller && !kept(chunk);
  const WriteGuard guard(counts ? &context_.writes : nullptr);
  if (context_.cancel.cancelled()) return stream_closed();
  return read_bytes(chunk, *reader, chunk.segments, report);
}

// The missing bytes of an aborted read are a chunk of their own from then on.
Status Worker::read_bytes(Chunk& chunk, Reader* reader, std::span<const iovec> segments,
                          ReadReport* report) {
  report->progress = chunk.progress.get();
  Status status = reader->read(*chunk.object, chunk.offset, segments, report);
  report->progress = nullptr;
  if (status.ok() && report->missing > 0) {
    context_.scheduler.requeue(split_off(&chunk, chunk.size - report->missing));
  }
  return status;
}

// Reads the bytes that `chunk` wants to consecutive memory from `slot` on, as a copy to the device
// takes them.
Status Worker::read_packed(Chunk& chunk, Reader* reader, std::byte* slot, ReadReport* report) {
  std::vector<iovec> staged = chunk.segments;
  for (iovec& segment : staged) {
    if (is_gap(segment)) continue;
    segment.iov_base = slot;
    slot += segment.iov_len;
  }
  Status status = read_bytes(chunk, reader, staged, report);
  std::erase_if(chunk.segments, is_gap);
  return status;
}

Status Worker::read_to_device(Chunk& chunk, Reader* reader, ReadReport* report,
                              bool* copied_later) {
  Destination& destination = *chunk.destination;
  const bool gaps = has_gap(chunk.segments);
  if (destination.file_strategy() != nullptr && !gaps) {
    const WriteGuard guard(&context_.writes);
    const int fd = context_.cancel.cancelled() ? -1 : chunk.object->device_fd();
    if (fd >= 0 && destination.read_file(fd, chunk.offset, chunk.segments)) {
      report->strategy = destination.file_strategy();
      return {};
    }
  }
  // Everything that may throw comes before the copy.
  auto copy = std::make_shared<Copy>();
  for (const Chunk::Share& share : chunk.shares) {
    if (copy->submissions.empty() || copy->submissions.back() != share.block->submission) {
      copy->submissions.push_back(share.block->submission);
    }
  }
  std::function<void(Status)> done = [copy, &context = context_](Status status) {
    finish(context, copy->chunk, std::move(status), copy->report);
    copy->guard.reset();
  };
  auto slot = destination.stage(chunk.size, chunk.offset, context_.cancel);
  if (!slot.ok()) return slot.status();
  SlotGuard slot_guard(destination, *slot);
  Status status =
      gaps ? read_packed(chunk, reader, slot->data, report)
           : read_bytes(chunk, reader, std::array{iovec{slot->data, chunk.size}}, report);
  copy->guard.emplace(&context_.writes);
  // The memory of the device may be gone.
  if (status.ok() && context_.cancel.cancelled()) status = stream_closed();
  if (!status.ok() || chunk.size == 0) {
    copy->guard.reset();
    return status;
  }
  // The connection is free for the next read while this one is copied.
  context_.scheduler.read_ended(chunk, *report);
  chunk.reading = false;
  copy->chunk = std::move(chunk);
  copy->report = *report;
  *copied_later = true;
  destination.copy(slot_guard.release(), copy->chunk.segments, std::move(done));
  return {};
}

}  // namespace streamer
