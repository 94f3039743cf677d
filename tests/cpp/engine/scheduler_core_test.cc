// The scheduler's decisions in one thread and in virtual time: whatever ends first, everything is
// delivered, in order and within the budget, and nobody waits for ever.
#include "engine/scheduler_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "engine/fake_address_space.h"
#include "engine/fake_storage.h"

namespace streamer {
namespace {

using namespace std::chrono_literals;
using testing::FakeAddressSpace;
using testing::kKiB;
using testing::kMiB;
using testing::row;

// Nothing of it is ever touched.
class ViewedObject final : public Object {
 public:
  ViewedObject(std::uint64_t size, bool mapped) : Object("object", size, "1"), mapped_(mapped) {}
  bool may_have_view() const override { return mapped_; }
  std::byte* view() const override {
    return mapped_ ? reinterpret_cast<std::byte*>(std::uintptr_t{1} << 44) : nullptr;  // NOLINT
  }

 private:
  bool mapped_;
};

// Workers, a storage and a consumer, of which any may come next.
class Play : public MemoryListener {
 public:
  static std::shared_ptr<Play> create(std::uint64_t seed, MemoryLimit memory_limit,
                                      SourceLimits limits) {
    auto play = std::shared_ptr<Play>(new Play(seed, memory_limit, limits));
    play->pool_->set_listener(play);
    return play;
  }
  ~Play() override { drop_everything(); }

  // What is still held, and what the pool keeps.
  void drop_everything() {
    held_.clear();
    kept.clear();
    pool_->close();
  }

  std::uint64_t pick(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random_);
  }

  std::uint32_t add_file(std::uint64_t size, bool mapped) {
    files_.push_back(std::make_shared<FileState>(FileState{
        "object", SourceKind::kFile, std::make_shared<ViewedObject>(size, mapped), {}, 0}));
    return static_cast<std::uint32_t>(files_.size() - 1);
  }
  Status submit(std::vector<FileRanges> entries) {
    auto submission = std::make_shared<Submission>();
    submission->entries = std::move(entries);
    if (Status status = find_files(files_, submission.get()); !status.ok()) return status;
    const std::uint64_t group = memory_limit_.largest_block();
    auto plan = Plan::make(submission, group);
    if (!plan.ok()) return plan.status();
    Signals signals;
    Status status = core_.add(std::move(*plan), &signals);
    obey(signals);
    return status;
  }
  void add_tasks(int count, int width) {
    for (int i = 0; i < count; ++i) {
      Signals signals;
      core_.add_task(
          [this] {
            ++tasks_run;
            if (at_task) at_task();
          },
          width, &signals);
      obey(signals);
    }
  }

  // Until everything was delivered; false if nobody can go on before.
  bool run() {
    while (!finished_) {
      const std::uint64_t choices = ready_.size() + reads_.size() + placings_.size() +
                                    tasks_.size() + (consumer_awake_ ? 1 : 0) + held_.size();
      if (choices == 0) {
        if (!fire_timer()) return false;
        continue;
      }
      now_ += std::chrono::microseconds(pick(1, 2000));
      act(pick(0, choices - 1));
      EXPECT_LE(budget_->used(), budget_->limit() + beyond);
    }
    return true;
  }

  void memory_returned() override {
    Signals signals;
    core_.memory_returned(&signals);
    obey(signals);
  }

  SchedulerCore& core() { return core_; }
  MemoryPool& pool() { return *pool_; }
  MemoryBudget& budget() { return *budget_; }
  FakeAddressSpace& space() { return space_; }

  int keep_in_percent = 0;   // of the blocks that the consumer gets
  int abort_in_percent = 0;  // of the reads: a part of them is requeued
  int fail_in_percent = 0;
  int tasks_run = 0;
  std::function<void()> at_task;
  std::uint64_t beyond = 0;  // bytes that the limit may be exceeded by
  std::uint64_t ranges = 0;
  std::uint64_t failed = 0;
  std::uint64_t most_active = 0;
  std::vector<Block> kept;

 private:
  using TimePoint = Clock::time_point;
  Play(std::uint64_t seed, MemoryLimit memory_limit, SourceLimits limits)
      : random_(seed),
        budget_(std::make_shared<MemoryBudget>(memory_limit.initial())),
        pool_(MemoryPool::create(budget_, space_)),
        core_(budget_, pool_, memory_limit),
        memory_limit_(memory_limit) {
    core_.add_source(SourceKind::kFile, limits);
  }

  struct Read {
    WorkerId worker;
    Chunk chunk;
  };
  struct Placing {
    WorkerId worker;
    Step::Placing placing;
  };
  struct Task {
    WorkerId worker;
    WorkerPool::Task task;
  };

  template <typename T>
  T take(std::vector<T>* list, std::uint64_t index) {
    T item = std::move((*list)[index]);
    list->erase(list->begin() + static_cast<std::ptrdiff_t>(index));
    return item;
  }

  void obey(const Signals& signals) {
    if (signals.consumer) consumer_awake_ = true;
    if (signals.worker) wake(*signals.worker);
    if (signals.start) ready_.push_back(*signals.start);
    if (signals.measure) core_.measured(*signals.measure, 0, now_);
  }
  void wake(WorkerId worker) {
    EXPECT_FALSE(core_.parked(worker));
    std::erase_if(timers_, [&](const auto& timer) { return timer.second == worker; });
    ready_.push_back(worker);
  }
  bool fire_timer() {
    if (timers_.empty()) return false;
    const auto first = std::min_element(timers_.begin(), timers_.end());
    now_ = std::max(now_, first->first);
    ready_.push_back(first->second);
    timers_.erase(first);
    return true;
  }

  void act(std::uint64_t choice) {
    if (choice < ready_.size()) return ask(take(&ready_, choice));
    choice -= ready_.size();
    if (choice < reads_.size()) return end_read(take(&reads_, choice));
    choice -= reads_.size();
    if (choice < placings_.size()) return end_placing(take(&placings_, choice));
    choice -= placings_.size();
    if (choice < tasks_.size()) {
      Task task = take(&tasks_, choice);
      task.task();
      ready_.push_back(task.worker);
      return;
    }
    choice -= tasks_.size();
    if (choice < held_.size()) {
      Block dropped = take(&held_, choice);
      return;
    }
    consume();
  }

  void ask(WorkerId worker) {
    Signals signals;
    Step step = core_.next(worker, now_, &signals);
    obey(signals);
    switch (step.kind) {
      case Step::Kind::kEnd: break;
      case Step::Kind::kTask: tasks_.push_back({worker, std::move(step.task)}); break;
      case Step::Kind::kRead:
        EXPECT_EQ(step.chunk.worker, worker);
        reads_.push_back({worker, std::move(step.chunk)});
        most_active = std::max<std::uint64_t>(most_active, reads_.size());
        break;
      case Step::Kind::kPlace: placings_.push_back({worker, std::move(step.placing)}); break;
      case Step::Kind::kPark:
        if (step.until < TimePoint::max()) timers_.emplace_back(step.until, worker);
        break;
    }
  }

  void end_read(Read read) {
    const bool aborted = static_cast<int>(pick(0, 99)) < abort_in_percent && read.chunk.size > 1;
    if (aborted) {
      if (read.chunk.progress) read.chunk.progress->aborted = true;
      Signals signals;
      core_.requeue(split_off(&read.chunk, pick(1, read.chunk.size - 1)), &signals);
      obey(signals);
    }
    Signals signals;
    const bool fails = static_cast<int>(pick(0, 99)) < fail_in_percent;
    core_.complete(read.chunk, fails ? Status::error(Code::kIo, "no") : Status(), {}, now_,
                   &signals);
    obey(signals);
    ready_.push_back(read.worker);
  }

  void end_placing(Placing placing) {
    Step::Placing& what = placing.placing;
    if (what.object) {
      what.viewed = pick(0, 3) > 0;
    } else {
      what.buffer = pool_->map(std::move(*what.reservation));
      EXPECT_TRUE(what.buffer);
    }
    core_.placed(std::move(what));
    ready_.push_back(placing.worker);
  }

  void consume() {
    SchedulerCore::Delivery delivery;
    Signals signals;
    const bool given = core_.deliver(now_, pick(0, 9) == 0, &delivery, &signals);
    obey(signals);
    if (!given) {
      consumer_awake_ = false;
      return;
    }
    finished_ = delivery.finished;
    for (Block& block : delivery.blocks) {
      EXPECT_TRUE(block.done());
      EXPECT_EQ(block.first, ranges);  // of one entry
      ranges += block.count;
      failed += block.status.ok() ? 0 : block.count;
      if (static_cast<int>(pick(0, 99)) < keep_in_percent) {
        kept.push_back(std::move(block));
      } else if (pick(0, 1) == 0) {
        held_.push_back(std::move(block));
      }
    }
    if (delivery.blocks.empty() && !finished_ && pick(0, 1) == 0) consumer_awake_ = true;
  }

  std::mt19937_64 random_;
  FakeAddressSpace space_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<MemoryPool> pool_;
  SchedulerCore core_;
  const MemoryLimit memory_limit_;
  FileTable files_;
  TimePoint now_{1h};
  std::vector<WorkerId> ready_;  // workers that ask next
  std::vector<Read> reads_;
  std::vector<Placing> placings_;
  std::vector<Task> tasks_;
  std::vector<std::pair<TimePoint, WorkerId>> timers_;
  std::vector<Block> held_;
  bool consumer_awake_ = true;
  bool finished_ = false;
};

SourceLimits limits(std::uint64_t chunk_bytes, int concurrency, bool stragglers) {
  SourceTraits traits;
  traits.initial_concurrency = traits.max_concurrency = concurrency;
  return {chunk_bytes, chunk_bytes, ConcurrencyController(concurrency, traits, 2), stragglers};
}

class SchedulerCorePlays : public ::testing::TestWithParam<int> {};

TEST_P(SchedulerCorePlays, DeliverEverythingInOrderWithinTheBudget) {
  std::mt19937_64 random(static_cast<std::uint64_t>(GetParam()));
  const auto pick = [&random](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  const std::uint64_t largest = pick(1, 12'000) * kKiB;
  const MemoryLimit memory_limits[] = {MemoryLimit::unlimited(), MemoryLimit::least(),
                                       MemoryLimit::bytes(largest + pick(0, 20'000) * kKiB)};
  const auto play = Play::create(
      random(), memory_limits[pick(0, 2)],
      limits(pick(4, 4096) * kKiB, static_cast<int>(pick(1, 8)), /*stragglers=*/pick(0, 1) == 0));
  play->keep_in_percent = pick(0, 2) == 0 ? static_cast<int>(pick(1, 100)) : 0;
  play->abort_in_percent = pick(0, 1) == 0 ? static_cast<int>(pick(1, 60)) : 0;
  play->fail_in_percent = pick(0, 3) == 0 ? static_cast<int>(pick(1, 30)) : 0;
  FileRanges wanted;
  std::uint64_t end = pick(0, 100);
  const std::uint64_t count = pick(0, 80);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t most[] = {0, 300, 64 * kKiB, 300 * kKiB, largest};
    const std::uint64_t size = std::min(largest, pick(0, most[pick(0, 4)]));
    if (pick(0, 5) == 0) end += pick(1, 9000);  // a gap
    wanted.ranges.push_back({end, size, nullptr, std::uint32_t{1} << pick(0, 6)});
    end += size;
  }
  wanted.file = play->add_file(end, /*mapped=*/pick(0, 2) == 0);
  const int tasks = pick(0, 1) == 0 ? static_cast<int>(pick(1, 40)) : 0;
  play->add_tasks(tasks, static_cast<int>(pick(1, 8)));
  const Status submitted = play->submit({wanted});
  ASSERT_TRUE(submitted.ok()) << submitted.to_string();
  ASSERT_TRUE(play->run()) << "nobody goes on";
  EXPECT_EQ(play->ranges, count);
  EXPECT_TRUE(play->failed == 0 || play->fail_in_percent > 0);
  EXPECT_FALSE(play->space().broken());
  play->drop_everything();
  EXPECT_EQ(play->budget().used(), 0u);
  EXPECT_EQ(play->space().mapped(), 0u);
}

// Each task has a reader for which there is no room any more. Those of other workers never end.
TEST_P(SchedulerCorePlays, ABlockWaitsForReadersThatWorkOnly) {
  const auto seed = static_cast<std::uint64_t>(GetParam());
  const std::uint64_t limit = 8 * kMiB;
  const auto play = Play::create(seed, MemoryLimit::bytes(limit), limits(kMiB, 4, false));
  MemoryBudget& budget = play->budget();
  const int tasks = static_cast<int>(seed % 5);
  int surplus = tasks;
  budget.note_block(limit);
  budget.take_for_reader(kMiB * static_cast<std::uint64_t>(tasks));
  if (tasks == 0) {
    budget.take_for_reader(kMiB);
    surplus = 1;
    play->beyond = kMiB;
  }
  budget.note_surplus_readers(surplus);
  play->at_task = [&] {
    budget.reader_ended(kMiB);
    budget.note_surplus_readers(--surplus);
  };
  play->add_tasks(tasks, 4);
  FileRanges wanted;
  wanted.file = play->add_file(10 * kMiB, /*mapped=*/false);
  wanted.ranges = {{0, kMiB}, {kMiB, limit}, {9 * kMiB, kMiB}};
  ASSERT_TRUE(play->submit({wanted}).ok());
  ASSERT_TRUE(play->run()) << "nobody goes on";
  EXPECT_EQ(play->ranges, 3u);
  EXPECT_EQ(play->tasks_run, tasks);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerCorePlays, ::testing::Range(0, 300));

class SchedulerCoreTest : public ::testing::Test {
 protected:
  static constexpr Clock::time_point kStart{1h};

  // What `worker` does next.
  Step next(WorkerId worker, Clock::time_point now = kStart) {
    signals_ = {};
    return play_->core().next(worker, now, &signals_);
  }
  // The same, once its block has a buffer.
  Step read(WorkerId worker) {
    Step step = next(worker);
    while (step.kind == Step::Kind::kPlace) {
      step.placing.buffer = play_->pool().map(std::move(*step.placing.reservation));
      play_->core().placed(std::move(step.placing));
      step = next(worker);
    }
    EXPECT_EQ(step.kind, Step::Kind::kRead);
    return step;
  }
  void complete(const Chunk& chunk, Clock::time_point now = kStart) {
    signals_ = {};
    play_->core().complete(chunk, {}, {}, now, &signals_);
  }
  void use(MemoryLimit memory_limit, int concurrency, bool stragglers = false) {
    play_ = Play::create(1, memory_limit, limits(kMiB, concurrency, stragglers));
  }
  void submit(int blocks) {
    const auto file = play_->add_file(blocks * kMiB, /*mapped=*/false);
    ASSERT_TRUE(play_->submit({row(file, blocks, kMiB)}).ok());
  }

  std::shared_ptr<Play> play_;
  Signals signals_;
};

TEST_F(SchedulerCoreTest, WorkersStartOneAnother) {
  use(MemoryLimit::unlimited(), 3);
  submit(8);
  (void)read(0);
  EXPECT_EQ(signals_.start, 1);
  (void)read(1);
  EXPECT_EQ(signals_.start, 2);
  (void)read(2);
  EXPECT_FALSE(signals_.start) << "three are enough";
}

TEST_F(SchedulerCoreTest, OneWorkerAtATimeFindsMemoryAndTheOthersPark) {
  use(MemoryLimit::unlimited(), 2);
  submit(8);
  Step placing = next(0);
  ASSERT_EQ(placing.kind, Step::Kind::kPlace);
  play_->add_tasks(1, 2);
  ASSERT_EQ(next(1).kind, Step::Kind::kTask) << "others run tasks meanwhile";
  ASSERT_EQ(next(1).kind, Step::Kind::kPark);
  placing.placing.buffer = play_->pool().map(std::move(*placing.placing.reservation));
  play_->core().placed(std::move(placing.placing));
  ASSERT_EQ(next(0).kind, Step::Kind::kRead);
  EXPECT_EQ(signals_.worker, 1) << "there is more to read";
}

TEST_F(SchedulerCoreTest, AFullBudgetParksAWorkerUntilMemoryReturns) {
  use(MemoryLimit::bytes(kMiB), 2);
  submit(2);
  const Step first = read(0);
  ASSERT_EQ(next(1).kind, Step::Kind::kPark);
  EXPECT_FALSE(signals_.worker);
  complete(first.chunk);
  EXPECT_TRUE(signals_.consumer);
  ASSERT_EQ(next(0).kind, Step::Kind::kPark);
  SchedulerCore::Delivery delivery;
  ASSERT_TRUE(play_->core().deliver(kStart, false, &delivery, &signals_));
  ASSERT_EQ(delivery.blocks.size(), 1u);
  EXPECT_EQ(signals_.worker, 0) << "one of both";
}

TEST_F(SchedulerCoreTest, TheOnlyWorkerDoesNotParkBesideTasks) {
  use(MemoryLimit::unlimited(), 1);
  play_->add_tasks(3, 1);
  const auto file = play_->add_file(2 * kMiB, /*mapped=*/false);
  ASSERT_TRUE(play_->submit({row(file, 1, 2 * kMiB)}).ok());
  ASSERT_EQ(next(0).kind, Step::Kind::kTask);
  const Step first = read(0);
  ASSERT_EQ(first.chunk.size, kMiB) << "the other half of the block was not read";
  play_->core().complete(first.chunk, Status::error(Code::kNetwork, "lost"), {}, kStart, &signals_);
  ASSERT_EQ(next(0).kind, Step::Kind::kTask);
  EXPECT_EQ(next(0).kind, Step::Kind::kTask) << "the rest of the block fails without a read";
  EXPECT_EQ(next(0).kind, Step::Kind::kPark);
}

TEST_F(SchedulerCoreTest, TheTimeOfAPauseIsCounted) {
  use(MemoryLimit::bytes(kMiB), 1);
  submit(2);
  complete(read(0).chunk);
  ASSERT_EQ(next(0, kStart + 1s).kind, Step::Kind::kPark);
  SchedulerCore::Delivery delivery;
  ASSERT_TRUE(play_->core().deliver(kStart + 4s, false, &delivery, &signals_));
  delivery.blocks.clear();
  (void)next(0, kStart + 6s);
  EXPECT_DOUBLE_EQ(play_->core().times().wait_consumer, 5);
}

TEST_F(SchedulerCoreTest, TheTimeThatTheConsumerWaitsIsCounted) {
  use(MemoryLimit::unlimited(), 1);
  submit(1);
  SchedulerCore::Delivery delivery;
  EXPECT_FALSE(play_->core().deliver(kStart, false, &delivery, &signals_));
  EXPECT_FALSE(play_->core().deliver(kStart + 1s, false, &delivery, &signals_));
  complete(read(0).chunk);
  EXPECT_TRUE(play_->core().deliver(kStart + 3s, false, &delivery, &signals_));
  EXPECT_DOUBLE_EQ(play_->core().times().wait_storage, 3);
}

TEST_F(SchedulerCoreTest, ARequeuedTailIsForAWorkerAtFullSpeed) {
  use(MemoryLimit::unlimited(), 3, /*stragglers=*/true);
  submit(20);
  // Worker 1 has ended reads by itself, worker 2 has not.
  (void)read(0);
  Clock::time_point now = kStart;
  for (int i = 0; i < 5; ++i) {
    const Step step = read(1);
    complete(step.chunk, now += 10ms);
  }
  Step slow = read(2);
  play_->core().requeue(split_off(&slow.chunk, 1000), &signals_);
  slow.chunk.progress->aborted = true;
  complete(slow.chunk, now);
  const Step tail = read(1);
  EXPECT_EQ(tail.chunk.aborts, 1);
  EXPECT_EQ(slow.chunk.size, 1000u);
  EXPECT_EQ(tail.chunk.offset, slow.chunk.offset + 1000);
}

TEST_F(SchedulerCoreTest, AParkedWorkerChecksForStragglersNowAndThen) {
  use(MemoryLimit::unlimited(), 2, /*stragglers=*/true);
  submit(1);
  (void)read(0);
  play_->add_tasks(1, 2);
  ASSERT_EQ(next(1).kind, Step::Kind::kTask);
  const Step step = next(1);
  ASSERT_EQ(step.kind, Step::Kind::kPark);
  EXPECT_GT(step.until, kStart);
  EXPECT_LT(step.until, Clock::time_point::max());
}

TEST_F(SchedulerCoreTest, ARefusalIsHeededBeforeItsReadEnds) {
  const auto refusals = std::make_shared<std::atomic<std::uint64_t>>(0);
  SourceTraits traits;
  traits.remote = true;
  traits.initial_concurrency = 4;
  traits.max_concurrency = 64;
  SourceLimits adaptive{kMiB, kMiB, ConcurrencyController(0, traits, /*processors=*/64)};
  adaptive.refusals = refusals;
  play_ = Play::create(1, MemoryLimit::unlimited(), adaptive);
  submit(16);
  std::vector<Step> reads;
  for (WorkerId worker = 0; worker < 4; ++worker) reads.push_back(read(worker));
  ++*refusals;  // of one that goes on
  complete(reads[0].chunk);
  EXPECT_EQ(next(0).kind, Step::Kind::kPark);
  complete(reads[1].chunk);
  EXPECT_EQ(next(1).kind, Step::Kind::kPark);
  complete(reads[2].chunk);
  EXPECT_EQ(read(2).kind, Step::Kind::kRead);
}

TEST_F(SchedulerCoreTest, CancellingEndsWorkersAndReturnsTheTasks) {
  use(MemoryLimit::unlimited(), 2);
  submit(4);
  (void)read(0);
  play_->add_tasks(3, 2);
  EXPECT_EQ(play_->core().cancel().size(), 3u);
  EXPECT_EQ(next(0).kind, Step::Kind::kEnd);
}

}  // namespace
}  // namespace streamer
