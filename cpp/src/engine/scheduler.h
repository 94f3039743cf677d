// Decides what is read next, in order and within the memory budget, and what is delivered.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "engine/block.h"
#include "engine/chunk.h"
#include "engine/concurrency.h"
#include "engine/read_watch.h"

namespace streamer {

// What a worker does next: a task, or a chunk, or (neither) it ends.
struct Job {
  std::function<void()> task;
  std::optional<Chunk> chunk;
  explicit operator bool() const { return task || chunk.has_value(); }
};

// What the scheduler must know of a source.
struct SourceLimits {
  std::uint64_t chunk_bytes = 0;
  std::uint64_t view_chunk_bytes = 0;
  ConcurrencyController controller;
  int active = 0;
  bool hedge = false;  // see ReadWatch
};

struct SchedulerTimes {
  double wait_storage = 0;
  double wait_consumer = 0;
  double wait_memory = 0;
  std::uint64_t chunks = 0;
  std::uint64_t hedges = 0;
};

// Thread-safe. Blocks are delivered in the order in which they were added.
class Scheduler : public MemoryListener, public std::enable_shared_from_this<Scheduler> {
 public:
  // `spawn` starts one more worker; it is called without the lock. `memory_limit` as in Options.
  Scheduler(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<BlockPool> pool,
            std::int64_t memory_limit, std::function<void()> spawn);

  // Must come before the first block or task of that kind.
  void add_source(SourceKind kind, SourceLimits limits);
  // Where adaptive concurrency starts: see ConcurrencyController::start().
  void start_concurrency(SourceKind kind, const Distance& distance);

  // kMemoryLimit where a block is larger than an explicit limit.
  Status add_blocks(std::vector<Block> blocks, const std::vector<FileState>& files);
  // Runs `task` on a worker, before chunks. `width`: how many workers tasks may occupy.
  void add_task(std::function<void()> task, int width);

  // For workers: blocks until there is something to do. False: end.
  Job take();
  void complete(const Chunk& chunk, const Status& status, const ReadReport& report);
  // The chunk's bytes were read, but are not where they belong yet: `reading` ends before
  // complete().
  void read_ended(const Chunk& chunk, const ReadReport& report);

  // What a chunk of this worker's misses since it was cut: another worker's where one is idle.
  void put_back(Chunk rest);

  // For the consumer: see Stream::next(). Blocks that are delivered leave the scheduler.
  Result<std::deque<Block>> next(std::chrono::milliseconds timeout, bool* finished);

  // Every waiting and later call of next() returns `reason`; workers end.
  void cancel(Status reason);
  Status fatal() const;  // the reason of cancel(), ok before
  // Tells that spawn() could not start a worker.
  void worker_missing();
  void memory_returned() override;

  int workers() const;
  int concurrency() const;  // of the last source used
  SchedulerTimes times() const;

 private:
  enum class Blocked { kNo, kConsumer, kMemory };

  bool can_spawn_locked() const;
  bool work_left_locked() const { return cursor_ < blocks_.size(); }
  bool more_chunks_locked() const;
  std::optional<Chunk> take_chunk_locked();
  std::optional<Chunk> make_chunk_locked();
  void begin_read_locked(Chunk* chunk);
  bool cold_locked() const;
  void wait_for_work_locked(std::unique_lock<std::mutex>* lock);
  std::uint64_t limit_locked(const SourceLimits& source, const Block& block) const;
  void choose_view_locked(Block& block);
  bool continues_locked(const Chunk& chunk, const Block& block) const;
  void end_read_locked(const Chunk& chunk, const ReadReport& report);
  void append_locked(Block& block, std::uint64_t limit, Chunk* chunk);
  bool place_locked(Block& block, bool first);
  void note_blocked_locked(Blocked reason);
  void release_handed_locked();

  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<BlockPool> pool_;
  const std::int64_t memory_limit_;
  const std::function<void()> spawn_;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable ready_;
  std::map<SourceKind, SourceLimits> sources_;
  std::vector<FileState> files_;
  std::deque<std::function<void()>> tasks_;
  int task_width_ = 0;
  std::deque<Block> blocks_;        // from the first that was not delivered
  std::size_t cursor_ = 0;          // the block of blocks_ that is being scheduled
  std::uint32_t cursor_range_ = 0;  // and in it the range,
  std::uint64_t cursor_byte_ = 0;   // and the byte of that range
  std::uint64_t views_ahead_ = 0;   // bytes of views that are scheduled and not delivered
  std::size_t chunks_under_way_ = 0;
  std::deque<Chunk> rests_;  // of reads that were cut
  ReadWatch watch_;
  std::set<std::thread::id> warm_;  // workers whose last watched read ended by itself
  // Memory that the consumer got last, and before that: it counts for as long as the consumer
  // seems to be working with it.
  std::vector<std::shared_ptr<BlockPool::Lease>> handed_, handed_before_;
  int workers_ = 0;
  int most_workers_ = 1 << 20;
  int idle_ = 0;
  int warm_idle_ = 0;     // of them, those that are not cold_locked()
  bool looking_ = false;  // one of the idle workers looks after laggards
  int last_concurrency_ = 0;
  bool cancelled_ = false;
  Status fatal_;
  Blocked blocked_ = Blocked::kNo;
  Clock::time_point blocked_since_;
  SchedulerTimes times_;
};

}  // namespace streamer
