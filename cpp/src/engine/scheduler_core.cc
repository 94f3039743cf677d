#include "engine/scheduler_core.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "engine/held_views.h"

namespace streamer {
namespace {

// The first read of a new connection. It is small, because a slow connection delays all later
// bytes.
constexpr std::uint64_t kFirstRead = kMiB;
constexpr std::chrono::milliseconds kBetweenChecks{50};

}  // namespace

SchedulerCore::SchedulerCore(std::shared_ptr<MemoryBudget> budget, std::shared_ptr<MemoryPool> pool,
                             MemoryLimit memory_limit)
    : pool_(std::move(pool)),
      queue_(pool_),
      cursor_(queue_),
      flow_(std::move(budget), memory_limit) {}

Status SchedulerCore::add(Plan plan, Signals* signals) {
  if (Status status = flow_.admit(plan); !status.ok()) return status;
  const std::uint64_t bytes = plan.bytes_to_read();
  queue_.add(std::move(plan));
  unread_bytes_ += bytes;
  call_worker(signals);
  start_worker(wanted_workers(), signals);
  signals->consumer = true;
  return {};
}

void SchedulerCore::add_task(WorkerPool::Task task, int width, Signals* signals) {
  workers_.add_task(std::move(task), width);
  call_worker(signals);
  start_worker(workers_.task_width(), signals);
}

bool SchedulerCore::not_started() {
  workers_.not_started();
  return workers_.workers() == 0;
}

int SchedulerCore::wanted_workers() const {
  return std::max(workers_.task_width(), cursor_.at_end() ? 0 : flow_.most_reads());
}

void SchedulerCore::call_worker(Signals* signals) {
  if (!signals->worker) signals->worker = workers_.call();
}

void SchedulerCore::start_worker(int wanted, Signals* signals) {
  signals->start = workers_.start(wanted);
  if (signals->start) stragglers_.add_worker();
}

// True if the consumer keeps the views that it gets.
bool SchedulerCore::consumer_keeps(const Block& block) {
  const HeldViews* const views = block.submission->views.get();
  return views != nullptr && views->many_are_kept();
}

// True if workers have nothing to read although reads are in flight.
bool SchedulerCore::idle() const {
  return workers_.any_parked() && !stragglers_.any_requeued() && (full_ || cursor_.at_end());
}

// True if a worker that asks now probably gets a chunk.
bool SchedulerCore::read_may_begin() {
  if (stragglers_.any_requeued()) return true;
  if (full_ || cursor_.owner()) return false;
  const Block* block = cursor_.block();
  return block != nullptr && flow_.admits_read(block->file().kind);
}

Step SchedulerCore::next(WorkerId worker, TimePoint now, Signals* signals) {
  Step step;
  workers_.arrived(worker);
  if (cancelled_) return step;
  flow_.heed_refusals();
  stragglers_.check(idle(), now);
  const bool forming = cursor_.owner() == worker;
  if (!forming && workers_.task_is_next(read_may_begin())) {
    begin_task(worker, &step);
    hand_on(signals);
    return step;
  }
  const Requeued requeued = forming ? Requeued::kLeave : requeued_for(worker, signals);
  const bool may_form = requeued != Requeued::kTake && (forming || !cursor_.owner());
  if (may_form && form_chunk(worker, now, &step, signals)) {
    if (step.kind == Step::Kind::kPlace) {
      if (workers_.has_tasks()) call_worker(signals);
      return step;
    }
    begin_read(worker, now, &step);
  } else if (requeued != Requeued::kLeave) {
    step.chunk = stragglers_.take_requeued();
    begin_read(worker, now, &step);
  } else if (workers_.has_tasks()) {  // the rest has failed without a read
    begin_task(worker, &step);
  } else {
    park(worker, now, &step);
    return step;
  }
  hand_on(signals);
  return step;
}

// Workers call and start one another, so that no thread waits for all of them.
void SchedulerCore::hand_on(Signals* signals) {
  const bool more = workers_.has_tasks() || read_may_begin();
  if (more || (stragglers_.watching() && !workers_.any_watches())) call_worker(signals);
  if (more) start_worker(wanted_workers(), signals);
}

void SchedulerCore::park(WorkerId worker, TimePoint now, Step* step) {
  const bool watches = stragglers_.watching() && !workers_.any_watches();
  step->kind = Step::Kind::kPark;
  if (watches) step->until = now + kBetweenChecks;
  workers_.park(worker, watches);
}

SchedulerCore::Requeued SchedulerCore::requeued_for(WorkerId worker, Signals* signals) {
  if (!stragglers_.any_requeued()) return Requeued::kLeave;
  // A new connection would be slow, too.
  const auto at_full_speed = [this](WorkerId other) { return !stragglers_.ramps_up(other); };
  if (at_full_speed(worker)) return Requeued::kTake;
  if (workers_.call_one_that(at_full_speed, &signals->worker)) return Requeued::kLeave;
  return workers_.any_runs_that(at_full_speed) ? Requeued::kTakeLast : Requeued::kTake;
}

void SchedulerCore::begin_task(WorkerId worker, Step* step) {
  workers_.begin_job(worker);
  step->kind = Step::Kind::kTask;
  step->task = workers_.take_task(worker);
}

void SchedulerCore::begin_read(WorkerId worker, TimePoint now, Step* step) {
  Chunk& chunk = step->chunk;
  workers_.begin_job(worker);
  step->kind = Step::Kind::kRead;
  chunk.worker = worker;
  if (chunk.memory == BlockMemory::kDevice) flow_.make_room_to_stage(chunk.kind);
  flow_.read_began(chunk.kind);
  ++chunks_;
  if (flow_.limits(chunk.kind).stragglers) stragglers_.began(&chunk, now);
}

// Gives `step` a chunk, or a step that has to come first. False: no chunk can be formed now.
bool SchedulerCore::form_chunk(WorkerId worker, TimePoint now, Step* step, Signals* signals) {
  while (Block* const block = cursor_.block()) {
    const bool first = !cursor_.started();
    if (first ? !flow_.admits_read(block->file().kind) : !cursor_.follows(*block)) break;
    if (!block->status.ok()) {  // unread bytes fail without a read
      fail_rest(*block, signals);
      continue;
    }
    // A view that is kept would be copied later anyway.
    if (block->viewable && block->ownership() == Ownership::kOwned && consumer_keeps(*block)) {
      block->viewable = false;
    }
    if (block->viewable) {
      step->placing.block = block;
      step->placing.object = block->file().object;
      step->placing.offset = block->range(0).offset;
      step->placing.bytes = block->bytes;
      step->kind = Step::Kind::kPlace;
      cursor_.claim(worker);
      return true;
    }
    if (!first && !cursor_.same_memory(*block)) break;
    const Placed placed = place(*block, step);
    if (placed == Placed::kInProgress) {
      step->kind = Step::Kind::kPlace;
      cursor_.claim(worker);
      return true;
    }
    if (placed == Placed::kNo) {
      if (first) note_full(now);
      break;
    }
    if (first) {
      waits_.reading(WaitTimes::Pause::kNone, now);
      cursor_.start(*block, chunk_limit(*block, worker), flow_.gap_bytes(block->file().kind));
    }
    if (!cursor_.append(*block)) break;
  }
  if (!cursor_.started()) {
    cursor_.release();
    return false;
  }
  ++chunks_in_flight_;
  step->chunk = cursor_.take();
  unread_bytes_ -= step->chunk.size;
  return true;
}

void SchedulerCore::fail_rest(Block& block, Signals* signals) {
  unread_bytes_ -= block.bytes - block.scheduled;
  block.completed += block.bytes - block.scheduled;
  block.scheduled = block.bytes;
  if (block.done() && queue_.is_front(block)) signals->consumer = true;
}

void SchedulerCore::note_full(TimePoint now) {
  const bool consumer = queue_.front_done() || chunks_in_flight_ == 0;
  waits_.reading(consumer ? WaitTimes::Pause::kConsumer : WaitTimes::Pause::kMemory, now);
  full_ = true;
}

// Finds memory for `block`.
SchedulerCore::Placed SchedulerCore::place(Block& block, Step* step) {
  if (block.memory == BlockMemory::kView) {
    if (block.scheduled > 0) return Placed::kYes;
    if (!flow_.admits_view(block.bytes)) return Placed::kNo;
    flow_.view_scheduled(block.bytes);
    return Placed::kYes;
  }
  if (block.has_memory()) return Placed::kYes;
  const Pages pages = block.file().kind == SourceKind::kFile ? Pages::kHuge : Pages::kSmall;
  auto reservation = pool_->reserve(block.data_bytes, pages, /*force=*/false);
  // If the consumer has blocks to take, it bounds the load, and more memory would only fill up.
  if (!reservation && !queue_.front_done() &&
      flow_.widen(block.file().kind, MemoryPool::capacity_for(block.data_bytes))) {
    reservation = pool_->reserve(block.data_bytes, pages, /*force=*/false);
  }
  const bool starving = !cursor_.started() && queue_.is_front(block) && chunks_in_flight_ == 0;
  // Readers that are too many end with the jobs of their workers, which ask again then.
  const bool memory_comes = flow_.readers_exceed() && workers_.any_has_job();
  if (!reservation && starving && !memory_comes) {
    // The consumer gets nothing before this block has memory, so the memory that it holds must not
    // count.
    queue_.stop_counting_delivered();
    reservation = pool_->reserve(block.data_bytes, pages, /*force=*/true);
  }
  if (!reservation) return Placed::kNo;
  if (reservation->needs_system_calls()) {
    step->placing.block = &block;
    step->placing.reservation.emplace(std::move(*reservation));
    return Placed::kInProgress;
  }
  give_buffer(block, pool_->map(std::move(*reservation)));
  return Placed::kYes;
}

void SchedulerCore::placed(Step::Placing placing) {
  Block& block = *placing.block;
  if (!placing.object) {
    give_buffer(block, std::move(placing.buffer));
    return;
  }
  block.viewable = false;
  if (!placing.viewed) return;
  block.memory = BlockMemory::kView;
  block.data = placing.object->view() + placing.offset - block.page_offset;
}

void SchedulerCore::give_buffer(Block& block, std::shared_ptr<MemoryPool::Buffer> buffer) {
  if (buffer == nullptr) {
    block.status =
        Status::error(Code::kOutOfMemory,
                      "the system has no memory for " + std::to_string(block.data_bytes) + " bytes")
            .with_path(block.file().path)
            .with_hint("Lower RUNAI_STREAMER_MEMORY_LIMIT, or give the process more memory");
    return;
  }
  block.data = buffer->data;
  block.buffer = std::move(buffer);
}

// Bytes that a chunk which starts at the cursor in `block` may have.
std::uint64_t SchedulerCore::chunk_limit(const Block& block, WorkerId worker) const {
  const SourceLimits& source = flow_.limits(block.file().kind);
  const std::uint64_t start = cursor_.offset(block);
  if (block.memory == BlockMemory::kView) {
    // Parts of a view end at whole multiples, so that no two workers fault in the same huge page.
    return source.view_chunk_bytes - start % source.view_chunk_bytes;
  }
  const std::uint64_t chunk = flow_.chunk_bytes(block.file().kind);
  // The last reads end together if they are small. For a device, whose ranges are submitted in
  // parts, more may follow.
  const std::uint64_t share =
      block.memory == BlockMemory::kDevice ? chunk : unread_bytes_ / flow_.reads(block.file().kind);
  if (source.most_chunk > 0 && share < chunk) {
    return std::min(chunk, std::max(round_up(share, kDirectAlignment), kFirstRead));
  }
  // Objects are often stored in parts of such a size. A read that crosses the end of a part costs
  // the storage two reads.
  const std::uint64_t to_border =
      is_aligned(chunk, kDirectAlignment) ? chunk - start % chunk : chunk;
  std::uint64_t limit = std::min(to_border, block.submission->max_chunk);
  if (source.stragglers && stragglers_.begins(worker)) limit = std::min(limit, kFirstRead);
  // The next chunk starts aligned, so that it can be read past the page cache without a copy.
  return limit > kDirectAlignment ? limit - (start + limit) % kDirectAlignment : limit;
}

void SchedulerCore::end_read(const Chunk& chunk, const ReadReport& report, TimePoint now,
                             Signals* signals) {
  stragglers_.ended(chunk, report, now);
  if (flow_.read_ended(chunk.kind, chunk.size, report, now)) signals->measure = chunk.kind;
}

void SchedulerCore::read_ended(const Chunk& chunk, const ReadReport& report, TimePoint now,
                               Signals* signals) {
  end_read(chunk, report, now, signals);
  if (read_may_begin()) call_worker(signals);
}

void SchedulerCore::complete(const Chunk& chunk, const Status& status, const ReadReport& report,
                             TimePoint now, Signals* signals) {
  if (chunk.reading) end_read(chunk, report, now, signals);
  --chunks_in_flight_;
  for (const Chunk::Share& share : chunk.shares) {
    Block& block = *share.block;
    if (!status.ok() && block.status.ok()) block.status = status;
    block.completed += share.bytes;
    if (block.done() && queue_.is_front(block)) signals->consumer = true;
  }
  full_ = false;
  // A worker that has read the chunk itself asks for the next one.
  if (!chunk.reading) call_worker(signals);
}

void SchedulerCore::requeue(Chunk tail, Signals* signals) {
  ++chunks_in_flight_;
  stragglers_.requeue(std::move(tail));
  const auto at_full_speed = [this](WorkerId worker) { return !stragglers_.ramps_up(worker); };
  if (!workers_.call_one_that(at_full_speed, &signals->worker)) call_worker(signals);
}

// Memory may have become free.
void SchedulerCore::retry_reading(Signals* signals) {
  if (!full_) return;
  full_ = false;
  call_worker(signals);
}

void SchedulerCore::memory_returned(Signals* signals) { retry_reading(signals); }

bool SchedulerCore::deliver(TimePoint now, bool last, Delivery* delivery, Signals* signals) {
  if (!last && !queue_.empty() && !queue_.front_done()) {
    waits_.consumer_waits(now);
    stragglers_.check(idle(), now);  // all workers may be busy reading
    return false;
  }
  delivery->finished = queue_.empty();
  delivery->blocks = queue_.take_batch();
  waits_.consumer_goes_on(now);
  for (const Block& block : delivery->blocks) {
    if (block.memory == BlockMemory::kView && block.scheduled > 0) {
      flow_.view_delivered(block.bytes);
    }
  }
  retry_reading(signals);
  return true;
}

std::list<WorkerPool::Task> SchedulerCore::cancel() {
  cancelled_ = true;
  return workers_.drop_tasks();
}

SchedulerTimes SchedulerCore::times() const {
  return {waits_.storage(), waits_.consumer(),    waits_.memory(),
          chunks_,          stragglers_.aborts(), flow_.bound()};
}

}  // namespace streamer
