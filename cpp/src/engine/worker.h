// A worker thread: it runs tasks, and reads chunks over connections of its own.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "base/cancel.h"
#include "engine/file_set.h"
#include "engine/reader_quota.h"
#include "engine/scheduler.h"
#include "engine/stats.h"

namespace streamer {

// The shared state of the workers of a stream. It outlives them.
struct WorkerContext {
  FileSet& files;
  Scheduler& scheduler;
  ReaderQuota& readers;
  StatsCollector& stats;
  const CancelToken& cancel;
  std::atomic<int>& writes;  // in flight, to destinations that only the caller keeps alive
};

class Worker {
 public:
  Worker(WorkerId id, const WorkerContext& context);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // The worker of this thread. Only for tasks.
  static Worker& current();

  // Works until the scheduler ends it.
  void run();
  // A connection to a source, until this job ends.
  Result<Reader*> reader(SourceKind kind);
  // Closes the connections: an operation ended by an exception, in an unknown state.
  void drop_readers() noexcept;

 private:
  void end_job() noexcept;
  void serve(Chunk& chunk) noexcept;
  // `*copied_later`: the bytes are on their way to a device, and another thread reports the chunk.
  Status read(Chunk& chunk, ReadReport* report, bool* copied_later);
  Status read_packed(Chunk& chunk, Reader* reader, std::byte* slot, ReadReport* report);
  Status read_to_device(Chunk& chunk, Reader* reader, ReadReport* report, bool* copied_later);
  Status read_bytes(Chunk& chunk, Reader* reader, std::span<const iovec> segments,
                    ReadReport* report);

  const WorkerId id_;
  const WorkerContext& context_;
  std::array<ReaderSlot, kSourceKinds> readers_;  // others may take those that are not in use
};

}  // namespace streamer
