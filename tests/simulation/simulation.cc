#include "simulation.h"

#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include "base/block_sizes.h"
#include "base/memory_units.h"
#include "engine/reader_memory.h"

namespace streamer::simulation {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint kStart{1h};
constexpr double kPatience = 120;  // seconds beyond what the slowest storage needs
constexpr std::size_t kMostEvents = 20'000'000;

class SimulatedObject final : public Object {
 public:
  SimulatedObject(std::uint64_t size, bool mapped, int number)
      : Object("object", size, "1"), mapped_(mapped), number_(number) {}
  bool may_have_view() const override { return mapped_; }
  // Nothing of it is ever touched.
  std::byte* view() const override {
    return mapped_ ? reinterpret_cast<std::byte*>(
                         (std::uintptr_t{1} << 60) +  // NOLINT
                         (std::uintptr_t{static_cast<unsigned>(number_)} << 44))
                   : nullptr;
  }

 private:
  const bool mapped_;
  const int number_;
};

class Simulation : public MemoryListener {
 public:
  static std::shared_ptr<Simulation> create(const LoadModel& model, std::uint64_t seed) {
    auto made = std::shared_ptr<Simulation>(new Simulation(model, seed));
    made->pool_->set_listener(made);
    return made;
  }

  Outcome run();
  void memory_returned() override {
    Signals signals;
    core_->memory_returned(&signals);
    obey(signals);
  }

 private:
  Simulation(const LoadModel& model, std::uint64_t seed);

  using Action = std::function<void()>;
  // A file and a range of it: blocks of one address may follow one another.
  using BlockName = std::pair<std::uint32_t, std::uint32_t>;
  static BlockName name_of(const Block& block) { return {block.file_index(), block.first}; }
  struct Write {
    const std::byte* address;
    std::uint64_t offset;
    std::uint64_t size;
  };

  std::uint64_t pick(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random_);
  }
  bool chance(double probability) {
    return probability > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < probability;
  }
  void fail(std::string what) {
    if (outcome_.fault.empty()) outcome_.fault = std::move(what);
  }
  // Threads take a moment to come.
  void later(Action action) { after(1e-6 * static_cast<double>(pick(1, 50)), std::move(action)); }
  void after(double delay, Action action) {
    events_.emplace(now_ + seconds(delay), std::move(action));
  }

  void add_files();
  void opened(std::size_t part);
  void submit(std::size_t first, std::size_t count);
  void obey(const Signals& signals);
  void ask(WorkerId worker);
  void place(WorkerId worker, Step::Placing placing);
  void end_read(Storage::Ended ended);
  void note_write(const Chunk& chunk);
  void check_block(const Block& block);
  void consume();
  void take(std::vector<Block> blocks);
  void abandon();
  void check_budget();
  std::uint64_t bytes_of_readers() const;
  bool step();
  void finish();

  const LoadModel& model_;
  std::mt19937_64 random_;
  testing::FakeAddressSpace space_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<MemoryPool> pool_;
  std::unique_ptr<SchedulerCore> core_;
  Storage storage_;
  FileTable files_;
  std::vector<FileRanges> wanted_;
  std::multimap<TimePoint, Action> events_;
  std::map<WorkerId, std::multimap<TimePoint, Action>::iterator> timers_;
  std::map<BlockName, std::vector<Write>> writes_;
  std::vector<std::map<std::uint64_t, std::uint64_t>> covered_;  // of each file: offset to end
  std::map<const Object*, std::size_t> file_numbers_;
  std::vector<Block> held_;
  TimePoint now_ = kStart;
  TimePoint bound_ = kStart;
  std::size_t next_entry_ = 0;    // that is delivered next
  std::uint32_t next_range_ = 0;  // index into that entry
  std::uint64_t failed_reads_ = 0;
  struct Part {
    std::size_t first;
    std::size_t count;
    std::size_t left;  // files that are not open
  };
  std::vector<Part> parts_;             // of the load, which are submitted in order
  std::size_t submitted_ = 0;           // of them
  std::set<WorkerId> readers_;          // workers that have one
  int open_width_ = 16;                 // workers that open files at once
  std::uint64_t largest_capacity_ = 0;  // of one block
  int ended_workers_ = 0;
  bool consumer_waits_ = false;
  bool consumer_called_ = false;
  bool finished_ = false;
  bool abandoned_ = false;
  Outcome outcome_;
};

Simulation::Simulation(const LoadModel& model, std::uint64_t seed)
    : model_(model),
      random_(seed),
      budget_(std::make_shared<MemoryBudget>(model.memory_limit.initial())),
      pool_(MemoryPool::create(budget_, space_)),
      core_(std::make_unique<SchedulerCore>(budget_, pool_, model.memory_limit)),
      storage_(model.storage, random_()) {
  SourceTraits traits = model.traits;
  int chosen = model.concurrency;
  if (model.memory_limit.kind() == MemoryLimit::Kind::kBytes) {
    traits = set_aside_for_readers(traits, &chosen, budget_.get());
    open_width_ = std::min(open_width_, chosen > 0 ? chosen : traits.max_concurrency);
  }
  if (model.memory_limit.kind() == MemoryLimit::Kind::kAutomatic) {
    budget_->set_limit(std::max(budget_->limit(), traits.window_bytes));
  }
  core_->add_source(model.kind,
                    {.chunk_bytes = traits.chunk_bytes,
                     .view_chunk_bytes = traits.view_chunk_bytes,
                     .controller = ConcurrencyController(chosen, traits, model.processors),
                     .stragglers = traits.stragglers,
                     .skips_gaps = traits.skips_gaps,
                     .reader_bytes = traits.reader_bytes,
                     .most_window = model.most_window,
                     .most_chunk = traits.max_chunk_bytes,
                     .reads = traits.reads,
                     .refusals = storage_.refusals()});
  if (model.far) {
    core_->start_concurrency(model.kind, {model.storage.round_trip + model.storage.first_byte});
  }
}

void Simulation::add_files() {
  double longest = 0;
  for (std::size_t i = 0; i < model_.files.size(); ++i) {
    FileRanges entry;
    entry.file = static_cast<std::uint32_t>(i);
    std::uint64_t end = pick(8, 4096);
    for (const std::uint64_t size : model_.files[i]) {
      // Small tensors share a block.
      const std::uint64_t block = std::max(size, std::min(kGroupBytes, budget_->limit()));
      largest_capacity_ = std::max(largest_capacity_, MemoryPool::capacity_for(block));
      end += model_.gap;
      entry.ranges.push_back({end, size, nullptr, std::uint32_t{1} << pick(0, 6)});
      end += size;
      // At the worst all bytes come one after another, each at the rate of the slowest connection.
      longest += storage_.longest_read(size) +
                 static_cast<double>(size / std::max<std::uint64_t>(model_.traits.chunk_bytes, 1)) *
                     storage_.longest_read(0) +
                 static_cast<double>(size) / model_.consumer.rate +
                 (model_.consumer.pause > 0 ? model_.consumer.pause_seconds : 0) +
                 model_.consumer.late_seconds;
    }
    files_.push_back(std::make_shared<FileState>(
        FileState{"object",
                  model_.kind,
                  std::make_shared<SimulatedObject>(end, model_.mapped, static_cast<int>(i)),
                  {},
                  0}));
    file_numbers_[files_.back()->object.get()] = i;
    wanted_.push_back(std::move(entry));
  }
  covered_.resize(files_.size());
  bound_ = kStart + seconds(kPatience + longest);
}

void Simulation::submit(std::size_t first, std::size_t count) {
  auto submission = std::make_shared<Submission>();
  submission->entries.assign(wanted_.begin() + static_cast<std::ptrdiff_t>(first),
                             wanted_.begin() + static_cast<std::ptrdiff_t>(first + count));
  Status status = find_files(files_, submission.get());
  if (!status.ok()) return fail("refused: " + status.to_string());
  auto plan = Plan::make(submission, model_.memory_limit.largest_block());
  if (!plan.ok()) return fail("refused: " + plan.status().to_string());
  Signals signals;
  status = core_->add(std::move(*plan), &signals);
  if (!status.ok()) return fail("refused: " + status.to_string());
  obey(signals);
}

// A file of a part was opened. Parts are submitted in order.
void Simulation::opened(std::size_t part) {
  --parts_[part].left;
  while (!abandoned_ && submitted_ < parts_.size() && parts_[submitted_].left == 0) {
    const Part& next = parts_[submitted_++];
    submit(next.first, next.count);
  }
}

void Simulation::obey(const Signals& signals) {
  if (signals.consumer && consumer_waits_ && !consumer_called_) {
    consumer_called_ = true;
    later([this] { consume(); });
  }
  if (signals.worker) {
    const WorkerId worker = *signals.worker;
    if (core_->parked(worker)) fail("a worker is called and still parked");
    if (const auto timer = timers_.find(worker); timer != timers_.end()) {
      events_.erase(timer->second);
      timers_.erase(timer);
    }
    later([this, worker] { ask(worker); });
  }
  if (signals.start) {
    later([this, worker = *signals.start] { ask(worker); });
  }
  if (signals.measure) core_->measured(*signals.measure, 0, now_);
}

void Simulation::ask(WorkerId worker) {
  Signals signals;
  Step step = core_->next(worker, now_, &signals);
  obey(signals);
  switch (step.kind) {
    case Step::Kind::kEnd: ++ended_workers_; break;
    case Step::Kind::kTask:
      after(model_.storage.round_trip + model_.storage.first_byte,
            [this, worker, task = std::move(step.task)] {
              task();
              ask(worker);
            });
      break;
    case Step::Kind::kRead:
      ++outcome_.reads;
      if (step.chunk.worker != worker) fail("a chunk belongs to another worker");
      if (readers_.insert(worker).second) budget_->take_for_reader(model_.traits.reader_bytes);
      storage_.begin(worker, std::move(step.chunk), now_);
      outcome_.most_active = std::max(outcome_.most_active, storage_.active());
      break;
    case Step::Kind::kPlace:
      later([this, worker, placing = std::make_shared<Step::Placing>(std::move(step.placing))] {
        place(worker, std::move(*placing));
      });
      break;
    case Step::Kind::kPark:
      if (step.until < TimePoint::max()) {
        timers_[worker] = events_.emplace(step.until, [this, worker] {
          timers_.erase(worker);
          ask(worker);
        });
      }
      break;
  }
  storage_.look_for_cuts(now_);
}

void Simulation::place(WorkerId worker, Step::Placing placing) {
  if (placing.object) {
    placing.viewed = placing.object->view() != nullptr && chance(0.8);
  } else {
    placing.buffer = pool_->map(std::move(*placing.reservation));
  }
  core_->placed(std::move(placing));
  ask(worker);
}

// Every byte of a file is read once.
void Simulation::note_write(const Chunk& chunk) {
  if (chunk.size == 0) return;
  auto& covered = covered_[file_numbers_.at(chunk.object.get())];
  const auto next = covered.upper_bound(chunk.offset);
  const std::uint64_t end = chunk.offset + chunk.size;
  if ((next != covered.end() && next->first < end) ||
      (next != covered.begin() && std::prev(next)->second > chunk.offset)) {
    fail("bytes are read twice");
  }
  covered[chunk.offset] = end;
  // Shares are in the order of the bytes; their addresses in that of the segments.
  std::uint64_t total = 0;
  for (const iovec& segment : chunk.segments) total += segment.iov_len;
  if (total != chunk.size) return fail("the segments of a chunk have another size");
  std::size_t segment = 0;
  std::uint64_t in_segment = 0;
  std::uint64_t offset = chunk.offset;
  for (const Chunk::Share& share : chunk.shares) {
    std::uint64_t left = share.bytes;
    while (left > 0) {
      const iovec& to = chunk.segments[segment];
      const std::uint64_t size = std::min<std::uint64_t>(left, to.iov_len - in_segment);
      if (size > 0) {
        writes_[name_of(*share.block)].push_back(
            {static_cast<const std::byte*>(to.iov_base) + in_segment, offset, size});
      }
      left -= size;
      offset += size;
      in_segment += size;
      if (in_segment == to.iov_len) {
        ++segment;
        in_segment = 0;
      }
    }
  }
}

// Every range of a complete block is where it should be.
void Simulation::check_block(const Block& block) {
  const auto found = writes_.find(name_of(block));
  if (!block.status.ok()) {
    if (found != writes_.end()) writes_.erase(found);
    return;
  }
  std::map<std::uint64_t, Write> by_offset;
  if (found != writes_.end()) {
    for (const Write& write : found->second) by_offset.emplace(write.offset, write);
    writes_.erase(found);
  }
  for (std::uint32_t i = 0; i < block.count; ++i) {
    const Range& range = block.range(i);
    std::uint64_t offset = range.offset;
    const std::uint64_t end = range.offset + range.size;
    while (offset < end) {
      const auto write = by_offset.upper_bound(offset);
      if (write == by_offset.begin()) return fail("bytes of a block are missing");
      const Write& last = std::prev(write)->second;
      if (offset >= last.offset + last.size) return fail("bytes of a block are missing");
      const std::byte* const want = block.data + block.offsets[i] + (offset - range.offset);
      if (want != last.address + (offset - last.offset)) return fail("bytes are at a wrong place");
      offset = std::min(end, last.offset + last.size);
    }
  }
}

void Simulation::end_read(Storage::Ended ended) {
  Chunk& chunk = ended.chunk;
  if (ended.status.ok() && ended.report.missing > 0) {
    Chunk tail = split_off(&chunk, chunk.size - ended.report.missing);
    Signals signals;
    core_->requeue(std::move(tail), &signals);
    obey(signals);
  }
  if (ended.status.ok()) {
    note_write(chunk);
  } else {
    ++failed_reads_;
  }
  Signals signals;
  core_->complete(chunk, ended.status, ended.report, now_, &signals);
  if (!abandoned_) {
    for (const Chunk::Share& share : chunk.shares) {
      if (share.block->done()) check_block(*share.block);
    }
  }
  obey(signals);
  ask(ended.worker);
}

void Simulation::consume() {
  if (abandoned_) return;
  consumer_waits_ = consumer_called_ = false;
  SchedulerCore::Delivery delivery;
  Signals signals;
  if (!core_->deliver(now_, /*last=*/false, &delivery, &signals)) {
    consumer_waits_ = true;
    obey(signals);
    return;
  }
  obey(signals);
  if (delivery.finished) {
    consumer_waits_ = submitted_ < parts_.size();  // the next submission is on its way
    finished_ = !consumer_waits_;
    return;
  }
  take(std::move(delivery.blocks));
}

void Simulation::take(std::vector<Block> blocks) {
  const ConsumerModel& consumer = model_.consumer;
  double busy = chance(consumer.pause) ? consumer.pause_seconds : 0;
  auto working = std::make_shared<std::vector<Block>>();
  for (Block& block : blocks) {
    if (!block.done()) fail("an incomplete block was delivered");
    while (next_entry_ < wanted_.size() && next_range_ == wanted_[next_entry_].ranges.size()) {
      ++next_entry_;
      next_range_ = 0;
    }
    if (block.file_index() != next_entry_ || block.first != next_range_) {
      fail("blocks are out of order");
    }
    next_range_ += block.count;
    if (outcome_.bytes == 0 && block.bytes > 0) {
      outcome_.first_seconds = seconds_between(kStart, now_);
    }
    outcome_.failed_blocks += block.status.ok() ? 0 : 1;
    if (block.status.ok()) outcome_.bytes += block.bytes;
    busy += static_cast<double>(block.bytes) / consumer.rate;
    if (chance(consumer.keep)) {
      held_.push_back(std::move(block));
    } else if (chance(consumer.drop_late)) {
      const double delay = consumer.late_seconds * static_cast<double>(pick(1, 1000)) / 1000;
      after(delay, [late = std::make_shared<Block>(std::move(block))]() mutable { late.reset(); });
    } else {
      working->push_back(std::move(block));
    }
  }
  after(busy + 1e-6, [this, working] {
    working->clear();
    consume();
  });
}

void Simulation::abandon() {
  if (finished_) return;
  abandoned_ = true;
  core_->cancel();
  storage_.cancel(now_);
  // Parked workers are woken, as by Scheduler::close().
  for (WorkerId worker = 0; worker < core_->workers(); ++worker) {
    if (!core_->parked(worker)) continue;
    if (const auto timer = timers_.find(worker); timer != timers_.end()) {
      events_.erase(timer->second);
      timers_.erase(timer);
    }
    later([this, worker] { ask(worker); });
  }
}

std::uint64_t Simulation::bytes_of_readers() const {
  return readers_.size() * model_.traits.reader_bytes;
}

void Simulation::check_budget() {
  const std::uint64_t used = budget_->used();
  outcome_.peak_memory = std::max(outcome_.peak_memory, used);
  // Only an explicit limit covers what readers hold.
  const bool exact = model_.memory_limit.kind() == MemoryLimit::Kind::kBytes;
  const std::uint64_t covered = exact ? used : used - bytes_of_readers();
  // A block that does not fit beside readers is alone in memory with them.
  const std::uint64_t alone = largest_capacity_ + budget_->set_aside_bytes();
  const std::uint64_t most = exact ? std::max(budget_->limit(), alone) : budget_->limit();
  if (covered > most) fail("the budget is exceeded");
}

// False: nobody can go on.
bool Simulation::step() {
  const std::optional<TimePoint> read = storage_.next_event();
  if (!read && events_.empty()) return false;
  if (events_.empty() || (read && *read <= events_.begin()->first)) {
    now_ = std::max(now_, *read);
    for (Storage::Ended& ended : storage_.advance(now_)) end_read(std::move(ended));
  } else {
    now_ = std::max(now_, events_.begin()->first);
    for (Storage::Ended& ended : storage_.advance(now_)) end_read(std::move(ended));
    const auto first = events_.begin();
    if (first == events_.end() || first->first > now_) return true;
    const Action action = std::move(first->second);
    events_.erase(first);
    action();
  }
  check_budget();
  return true;
}

// What has to be true at the end.
void Simulation::finish() {
  outcome_.seconds = seconds_between(kStart, now_);
  outcome_.times = core_->times();
  outcome_.attempts = storage_.attempts();
  if (!abandoned_ && outcome_.fault.empty()) {
    std::size_t entry = next_entry_;
    if (entry < wanted_.size() && next_range_ == wanted_[entry].ranges.size()) ++entry;
    while (entry < wanted_.size() && wanted_[entry].ranges.empty()) ++entry;
    if (entry != wanted_.size()) fail("ranges were not delivered");
    if (outcome_.failed_blocks > 0 && failed_reads_ == 0) fail("blocks failed without a reason");
    if (failed_reads_ > 0 && outcome_.failed_blocks == 0) fail("a failed read was passed over");
    if (failed_reads_ == 0 && !writes_.empty()) fail("bytes of no block were read");
  }
  if (abandoned_) {
    // All threads end, as the destructor of a stream waits for.
    while (outcome_.fault.empty() && ended_workers_ < core_->workers() && step()) {
    }
    if (outcome_.fault.empty() && ended_workers_ < core_->workers()) fail("a worker did not end");
  }
  // Nothing is left behind.
  pool_->set_listener({});
  events_.clear();
  timers_.clear();
  held_.clear();
  core_.reset();
  pool_->close();
  if (!outcome_.fault.empty()) return;
  budget_->reader_ended(bytes_of_readers());
  if (budget_->used() != 0) fail("memory still counts at the end");
  if (space_.mapped() != 0 || space_.broken()) fail("memory is still mapped at the end");
}

Outcome Simulation::run() {
  add_files();
  if (model_.consumer.abandon_after > 0) {
    after(model_.consumer.abandon_after, [this] { abandon(); });
  }
  const std::size_t parts = std::min<std::size_t>(model_.submissions, files_.size());
  std::size_t first = 0;
  for (std::size_t part = 0; part < parts; ++part) {
    const std::size_t count = (files_.size() - first) / (parts - part);
    parts_.push_back({first, count, count});
    first += count;
  }
  for (std::size_t part = 0; part < parts; ++part) {
    for (std::size_t i = 0; i < parts_[part].count; ++i) {
      Signals signals;
      core_->add_task([this, part] { opened(part); }, open_width_, &signals);
      obey(signals);
    }
  }
  consume();
  std::size_t events = 0;
  while (!finished_ && !abandoned_ && outcome_.fault.empty()) {
    if (!step()) fail("nobody can go on");
    if (now_ > bound_) fail("it takes too long");
    if (++events > kMostEvents) fail("too many events");
  }
  finish();
  return outcome_;
}

}  // namespace

Outcome simulate(const LoadModel& model, std::uint64_t seed) {
  auto simulation = Simulation::create(model, seed);
  return simulation->run();
}

}  // namespace streamer::simulation
