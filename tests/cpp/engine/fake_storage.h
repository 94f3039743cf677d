// Storage in memory with delays and faults, and workers that read it for a Scheduler.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/plan.h"
#include "engine/scheduler.h"
#include "engine/strides.h"

namespace streamer::testing {

using streamer::kKiB;
using streamer::kMiB;

// What byte `offset` of the object number `seed` is.
inline std::byte pattern(std::uint64_t seed, std::uint64_t offset) {
  return static_cast<std::byte>((offset * 167 + (offset >> 8) * 59 + seed * 31) & 0xff);
}

// Whether `data` holds [offset, offset + size) of the object. Looks at all bytes of what is small
// and at the ends and a sample of what is large.
inline bool matches(const std::byte* data, std::uint64_t seed, std::uint64_t offset,
                    std::uint64_t size) {
  const std::uint64_t step = size <= 64 * kKiB ? 1 : 61;
  for (std::uint64_t i = 0; i < size; i += step) {
    if (data[i] != pattern(seed, offset + i)) return false;
  }
  return size == 0 || data[size - 1] == pattern(seed, offset + size - 1);
}

class FakeObject final : public Object {
 public:
  FakeObject(std::uint64_t seed, std::uint64_t size, bool mapped = false)
      : Object("fake-" + std::to_string(seed), size, "1"), seed_(seed) {
    if (!mapped) return;
    view_ = std::unique_ptr<std::byte[], decltype(&std::free)>(
        static_cast<std::byte*>(std::aligned_alloc(64, (size + 63) / 64 * 64)), &std::free);
    for (std::uint64_t i = 0; i < size; ++i) view_[i] = pattern(seed, i);
  }
  std::uint64_t seed() const { return seed_; }
  bool may_have_view() const override { return view_ != nullptr; }
  std::byte* view() const override {
    view_asked_ = true;
    return view_.get();
  }
  bool view_asked() const { return view_asked_; }

 private:
  std::uint64_t seed_;
  mutable std::atomic<bool> view_asked_{false};
  std::unique_ptr<std::byte[], decltype(&std::free)> view_{nullptr, &std::free};
};

// A budget, a pool, a scheduler, and threads that fill chunks with the pattern.
class Crew {
 public:
  struct Setup {
    MemoryLimit memory_limit = MemoryLimit::unlimited();
    std::uint64_t chunk_bytes = kMiB;
    int concurrency = 4;
    // Runs on the worker before a chunk is filled; what it returns is the chunk's outcome.
    std::function<Status(const Chunk&)> on_read = {};
    int threads_to_be_had = 1000;
    bool stragglers = false;
    bool skips_gaps = false;
    // Bytes at the end that the read of a chunk misses since it was aborted.
    std::function<std::uint64_t(const Chunk&)> on_abort = {};
    AddressSpace& space = AddressSpace::system();
  };

  explicit Crew(Setup setup) : setup_(std::move(setup)) {
    const MemoryLimit limit = setup_.memory_limit;
    budget_ = std::make_shared<MemoryBudget>(limit.initial());
    pool_ = MemoryPool::create(budget_, setup_.space);
    scheduler_ = std::make_shared<Scheduler>(budget_, pool_, limit,
                                             [this](WorkerId worker) { start_worker(worker); });
    pool_->set_listener(scheduler_);
    SourceTraits traits;
    traits.initial_concurrency = traits.max_concurrency = setup_.concurrency;
    scheduler_->add_source(SourceKind::kFile,
                           {setup_.chunk_bytes, setup_.chunk_bytes,
                            ConcurrencyController(setup_.concurrency, traits, /*processors=*/2),
                            setup_.stragglers, setup_.skips_gaps});
  }
  ~Crew() {
    stop();
    pool_->close();
  }

  void stop() {
    scheduler_->cancel(Status::error(Code::kCancelled, "the test is over"));
    std::vector<std::thread> threads;
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      threads.swap(threads_);
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::uint32_t add_file(std::uint64_t size, bool mapped = false) {
    auto object = std::make_shared<FakeObject>(files_.size(), size, mapped);
    files_.push_back(
        std::make_shared<FileState>(FileState{object->path(), SourceKind::kFile, object, {}, 0}));
    return static_cast<std::uint32_t>(files_.size() - 1);
  }
  std::uint32_t add_broken_file() {
    files_.push_back(std::make_shared<FileState>(
        FileState{"broken", SourceKind::kFile, nullptr,
                  Status::error(Code::kNotFound, "no such file").with_path("broken"), 0}));
    return static_cast<std::uint32_t>(files_.size() - 1);
  }

  Status submit(std::vector<FileRanges> entries) {
    auto submission = std::make_shared<Submission>();
    submission->entries = std::move(entries);
    const std::uint64_t group = setup_.memory_limit.largest_block();
    if (Status status = find_files(files_, submission.get()); !status.ok()) return status;
    auto plan = Plan::make(submission, group);
    if (!plan.ok()) return plan.status();
    return scheduler_->add(std::move(*plan));
  }

  // What is ready next; empty with `*finished` at the end.
  std::vector<Block> next(bool* finished,
                          std::chrono::milliseconds timeout = std::chrono::milliseconds(30000)) {
    auto delivery = scheduler_->next(Clock::now() + timeout);
    last_ = delivery.status();
    if (!delivery.ok()) return {};
    *finished = delivery->finished;
    return std::move(delivery->blocks);
  }
  const Status& last() const { return last_; }

  // Whether every range of `block` holds what its file does.
  bool right(const Block& block) const {
    for (std::uint32_t i = 0; i < block.count; ++i) {
      const Range& range = block.range(i);
      const auto* data = range.destination != nullptr
                             ? static_cast<const std::byte*>(range.destination)
                             : block.data + block.offsets[i];
      if (range.strides) {
        for (std::uint64_t at = 0; at < range.size; ++at) {
          if (data[at] != pattern(block.file_index(), place_of(range, at))) return false;
        }
        continue;
      }
      if (range.size > 0 && !matches(data, block.file_index(), range.offset, range.size))
        return false;
    }
    return true;
  }

  // Takes everything; `each` gets the blocks in order. False if something is missing or wrong.
  bool drain(const std::function<void(Block)>& each = {}) {
    for (;;) {
      bool finished = false;
      std::vector<Block> batch = next(&finished);
      if (!last_.ok() || (batch.empty() && !finished)) return false;
      for (Block& delivered : batch) {
        Block block = std::move(delivered);  // dropped before the next one
        if (block.status.ok() && !right(block)) return false;
        if (each) each(std::move(block));
      }
      if (finished) return true;
    }
  }

  Scheduler& scheduler() { return *scheduler_; }
  MemoryBudget& budget() { return *budget_; }
  MemoryPool& pool() { return *pool_; }
  int most_active() const { return most_active_; }
  std::vector<std::uint64_t> chunk_sizes() const {
    const std::lock_guard lock(mutex_);
    return chunk_sizes_;
  }

 private:
  void start_worker(WorkerId worker) {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    if (static_cast<int>(threads_.size()) >= setup_.threads_to_be_had) {
      scheduler_->worker_not_started();
      return;
    }
    threads_.emplace_back([this, worker] { work(worker); });
  }

  void work(WorkerId worker) {
    while (Job job = scheduler_->take(worker)) {
      if (job.task) {
        job.task();
        continue;
      }
      Chunk& chunk = *job.chunk;
      const int active = ++active_;
      int most = most_active_;
      while (active > most && !most_active_.compare_exchange_weak(most, active)) {
      }
      {
        const std::lock_guard lock(mutex_);
        chunk_sizes_.push_back(chunk.size);
      }
      const std::uint64_t missing = setup_.on_abort ? setup_.on_abort(chunk) : 0;
      if (missing > 0) scheduler_->requeue(split_off(&chunk, chunk.size - missing));
      Status status = setup_.on_read ? setup_.on_read(chunk) : Status();
      if (status.ok() && chunk.memory != BlockMemory::kView) {
        std::uint64_t at = chunk.offset;
        const std::uint64_t seed = static_cast<const FakeObject&>(*chunk.object).seed();
        for (const iovec& segment : chunk.segments) {
          auto* target = static_cast<std::byte*>(segment.iov_base);
          for (std::size_t i = 0; i < segment.iov_len && target != nullptr; ++i) {
            target[i] = pattern(seed, at + i);
          }
          at += segment.iov_len;
        }
      }
      --active_;
      scheduler_->complete(chunk, status, {});
    }
  }

  const Setup setup_;
  std::shared_ptr<MemoryBudget> budget_;
  std::shared_ptr<MemoryPool> pool_;
  std::shared_ptr<Scheduler> scheduler_;
  FileTable files_;
  Status last_;
  mutable std::mutex mutex_;
  std::vector<std::thread> threads_;
  std::vector<std::uint64_t> chunk_sizes_;
  bool stopped_ = false;
  std::atomic<int> active_{0};
  std::atomic<int> most_active_{0};
};

// `count` consecutive ranges of `size` bytes.
inline FileRanges row(std::uint32_t file, int count, std::uint64_t size, std::uint64_t offset = 0) {
  FileRanges ranges;
  ranges.file = file;
  for (int i = 0; i < count; ++i) ranges.ranges.push_back({offset + i * size, size, nullptr, 1});
  return ranges;
}

// Lets threads wait for one another.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

}  // namespace streamer::testing
