#include "engine/scheduler.h"

#include <algorithm>

namespace streamer {
namespace {

// What one call of next() delivers at most, unless one block is larger.
constexpr std::uint64_t kBatchMemory = 8 * kMiB;
constexpr std::size_t kBatchBlocks = 64;
constexpr std::chrono::milliseconds kLook{50};

}  // namespace

Scheduler::Scheduler(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<BlockPool> pool,
                     std::int64_t memory_limit, std::function<void()> spawn)
    : budget_(std::move(budget)),
      pool_(std::move(pool)),
      memory_limit_(memory_limit),
      spawn_(std::move(spawn)) {}

void Scheduler::add_source(SourceKind kind, SourceLimits limits) {
  const std::lock_guard lock(mutex_);
  sources_.emplace(kind, limits);
}

void Scheduler::start_concurrency(SourceKind kind, const Distance& distance) {
  const std::lock_guard lock(mutex_);
  sources_.at(kind).controller.start(distance);
}

Status Scheduler::add_blocks(std::vector<Block> blocks, const std::vector<FileState>& files) {
  std::uint64_t largest = 0;
  const Block* largest_block = nullptr;
  for (const Block& block : blocks) {
    if (block.placement == Placement::kPool && block.bytes > 0 && block.data_bytes > largest) {
      largest = block.data_bytes;
      largest_block = &block;
    }
  }
  if (largest > 0) largest = BlockPool::capacity_for(largest);
  {
    const std::lock_guard lock(mutex_);
    if (memory_limit_ > 0 && largest_block != nullptr &&
        largest_block->bytes > static_cast<std::uint64_t>(memory_limit_)) {
      const Range& range = largest_block->range(largest_block->first);
      return Status::error(Code::kMemoryLimit, "the memory limit of " +
                                                   std::to_string(memory_limit_) +
                                                   " bytes is below the largest tensor")
          .with_path(files[largest_block->file].path)
          .with_range(range.offset, range.size)
          .with_hint("Set RUNAI_STREAMER_MEMORY_LIMIT to at least " +
                     std::to_string(largest_block->bytes) + ", or to 0 for the least that works");
    }
    // 0 and the default mean at least the largest block.
    if (budget_->limit() < largest) budget_->set_limit(largest);
    for (Block& block : blocks) blocks_.push_back(std::move(block));
    files_ = files;
  }
  work_.notify_one();
  bool spawn = false;
  {
    const std::lock_guard lock(mutex_);
    spawn = can_spawn_locked();
    if (spawn) ++workers_;
  }
  if (spawn) spawn_();
  ready_.notify_all();
  return {};
}

void Scheduler::add_task(std::function<void()> task, int width) {
  bool spawn = false;
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    task_width_ = std::max(task_width_, width);
    spawn = idle_ == 0 && workers_ < std::min(task_width_, most_workers_);
    if (spawn) ++workers_;
  }
  if (spawn) {
    spawn_();
  } else {
    work_.notify_one();
  }
}

void Scheduler::worker_missing() {
  bool none = false;
  {
    const std::lock_guard lock(mutex_);
    --workers_;
    most_workers_ = workers_;
    none = workers_ == 0;
  }
  if (none) {
    cancel(Status::error(Code::kOutOfMemory, "the system gives no thread to read with")
               .with_hint("Raise the limit of processes (ulimit -u) or of the cgroup (pids.max)"));
  }
}

bool Scheduler::can_spawn_locked() const {
  if (cancelled_ || idle_ > 0 || workers_ >= most_workers_) return false;
  int wanted = tasks_.empty() ? 0 : task_width_;
  if (work_left_locked()) {
    for (const auto& [kind, source] : sources_) {
      wanted = std::max(wanted, source.controller.limit());
    }
  }
  return workers_ < wanted;
}

Job Scheduler::take() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (cancelled_) return {};
    Job job;
    if (!tasks_.empty()) {
      job.task = std::move(tasks_.front());
      tasks_.pop_front();
    } else {
      job.chunk = take_chunk_locked();
    }
    if (job) {
      // Workers start one another, so that a stream starts without waiting for all of them.
      const bool more = !tasks_.empty() || more_chunks_locked();
      const bool spawn = more && can_spawn_locked();
      const bool look = watch_.watching() && !looking_;
      const bool wake = (more || look) && idle_ > 0;
      if (spawn) ++workers_;
      lock.unlock();
      if (wake) work_.notify_one();
      if (spawn) spawn_();
      return job;
    }
    wait_for_work_locked(&lock);
  }
}

// Whether a worker that is woken may find another chunk.
bool Scheduler::more_chunks_locked() const {
  if (!work_left_locked() || blocked_ != Blocked::kNo) return false;
  const SourceLimits& source = sources_.at(files_[blocks_[cursor_].file].kind);
  return source.active < source.controller.limit();
}

void Scheduler::wait_for_work_locked(std::unique_lock<std::mutex>* lock) {
  const bool warm = !cold_locked();
  ++idle_;
  warm_idle_ += warm ? 1 : 0;
  if (watch_.watching() && !looking_) {
    looking_ = true;
    work_.wait_for(*lock, kLook);
    looking_ = false;
  } else {
    work_.wait(*lock);
  }
  --idle_;
  warm_idle_ -= warm ? 1 : 0;
}

std::optional<Chunk> Scheduler::take_chunk_locked() {
  watch_.look(Clock::now());
  std::optional<Chunk> chunk;
  if (!rests_.empty()) {
    // A new connection would be slow, too. Who is idle and has a better one was woken for this.
    if (cold_locked() && warm_idle_ > 0) return std::nullopt;
    chunk = std::move(rests_.front());
    rests_.pop_front();
  } else if (work_left_locked()) {
    chunk = make_chunk_locked();
  }
  if (chunk) begin_read_locked(&*chunk);
  return chunk;
}

// Whether this worker's connection is not at its full speed yet, while that of others is.
bool Scheduler::cold_locked() const {
  return watch_.usual_known() && !warm_.contains(std::this_thread::get_id());
}

void Scheduler::begin_read_locked(Chunk* chunk) {
  SourceLimits& source = sources_.at(chunk->kind);
  ++source.active;
  ++times_.chunks;
  if (!source.hedge) return;
  chunk->progress = std::make_shared<ReadProgress>();
  watch_.began(chunk->progress, chunk->size, chunk->cuts, Clock::now());
}

void Scheduler::put_back(Chunk rest) {
  {
    const std::lock_guard lock(mutex_);
    ++chunks_under_way_;
    rests_.push_back(std::move(rest));
  }
  work_.notify_all();
}

void Scheduler::release_handed_locked() {
  for (auto* list : {&handed_, &handed_before_}) {
    for (const auto& lease : *list) pool_->uncount(*lease);
    list->clear();
  }
}

void Scheduler::note_blocked_locked(Blocked reason) {
  if (reason == blocked_) return;
  const Clock::time_point now = Clock::now();
  const double seconds = seconds_between(blocked_since_, now);
  if (blocked_ == Blocked::kConsumer) times_.wait_consumer += seconds;
  if (blocked_ == Blocked::kMemory) times_.wait_memory += seconds;
  blocked_ = reason;
  blocked_since_ = now;
}

void Scheduler::end_read_locked(const Chunk& chunk, const ReadReport& report) {
  SourceLimits& source = sources_.at(chunk.kind);
  source.controller.completed(chunk.size, source.active, report, Clock::now());
  last_concurrency_ = source.controller.limit();
  --source.active;
  if (!chunk.progress) return;
  watch_.ended(chunk.progress.get(), Clock::now());
  if (chunk.progress->cut) {
    warm_.erase(std::this_thread::get_id());
  } else {
    warm_.insert(std::this_thread::get_id());
  }
}

void Scheduler::read_ended(const Chunk& chunk, const ReadReport& report) {
  bool wake_worker = false;
  {
    const std::lock_guard lock(mutex_);
    end_read_locked(chunk, report);
    wake_worker = idle_ > 0 && more_chunks_locked();
  }
  if (wake_worker) work_.notify_one();
}

void Scheduler::complete(const Chunk& chunk, const Status& status, const ReadReport& report) {
  bool wake_consumer = false;
  bool wake_worker = false;
  {
    const std::lock_guard lock(mutex_);
    if (chunk.reading) end_read_locked(chunk, report);
    --chunks_under_way_;
    // The worker that has read it looks for the next one by itself.
    wake_worker = idle_ > 0 && !chunk.reading;
    for (const Chunk::Share& share : chunk.shares) {
      share.block->completed += share.bytes;
      if (!status.ok() && share.block->status.ok()) share.block->status = status;
      if (share.block->done() && share.block == &blocks_.front()) wake_consumer = true;
    }
  }
  if (wake_consumer) ready_.notify_all();
  if (wake_worker) work_.notify_one();
}

Result<std::deque<Block>> Scheduler::next(std::chrono::milliseconds timeout, bool* finished) {
  std::deque<Block> batch;
  std::unique_lock lock(mutex_);
  const auto ready = [this] {
    // A block without bytes is done before the cursor passes it: it must not be taken from under
    // the cursor.
    return cancelled_ || blocks_.empty() || blocks_.front().done();
  };
  if (!ready()) {
    const Clock::time_point start = Clock::now();
    if (timeout == std::chrono::milliseconds::max()) {
      ready_.wait(lock, ready);
    } else {
      ready_.wait_for(lock, timeout, ready);
    }
    times_.wait_storage += seconds_between(start, Clock::now());
  }
  *finished = blocks_.empty();
  if (cancelled_) return fatal_;
  std::uint64_t memory = 0;
  while (!blocks_.empty() && blocks_.front().done() && batch.size() < kBatchBlocks) {
    Block& block = blocks_.front();
    const std::uint64_t needs = block.memory ? block.memory->capacity : 0;
    if (!batch.empty() && memory + needs > kBatchMemory) break;
    memory += needs;
    if (block.placement == Placement::kView && block.scheduled > 0) views_ahead_ -= block.bytes;
    batch.push_back(std::move(block));
    blocks_.pop_front();
    if (cursor_ > 0) {
      --cursor_;
    } else {
      cursor_range_ = 0;
      cursor_byte_ = 0;
    }
  }
  // What was handed out before the last batch and is still alive is being kept.
  for (const auto& lease : handed_before_) pool_->uncount(*lease);
  if (!batch.empty()) {
    handed_before_ = std::move(handed_);
    handed_.clear();
    for (const Block& block : batch) {
      if (block.memory) handed_.push_back(block.memory->lease);
    }
  }
  const bool wake = idle_ > 0 && blocked_ != Blocked::kNo;
  lock.unlock();
  if (wake) work_.notify_all();
  return batch;
}

void Scheduler::cancel(Status reason) {
  {
    const std::lock_guard lock(mutex_);
    if (!cancelled_) fatal_ = std::move(reason);
    cancelled_ = true;
    tasks_.clear();
  }
  work_.notify_all();
  ready_.notify_all();
}

void Scheduler::memory_returned() {
  bool wake = false;
  {
    // A waiter that read the budget before it changed is asleep by now.
    const std::lock_guard lock(mutex_);
    wake = idle_ > 0 && blocked_ != Blocked::kNo;
  }
  if (wake) work_.notify_one();
}

Status Scheduler::fatal() const {
  const std::lock_guard lock(mutex_);
  return fatal_;
}

int Scheduler::workers() const {
  const std::lock_guard lock(mutex_);
  return workers_;
}

int Scheduler::concurrency() const {
  const std::lock_guard lock(mutex_);
  return last_concurrency_;
}

SchedulerTimes Scheduler::times() const {
  const std::lock_guard lock(mutex_);
  SchedulerTimes times = times_;
  times.hedges = watch_.cuts();
  return times;
}

}  // namespace streamer
