// What a stream is made of. Its functions stand in three files: stream.cc (submissions and what
// comes of them), stream_open.cc (what a caller waits for) and stream_workers.cc (threads).
#pragma once

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/system.h"
#include "destination/destination.h"
#include "engine/memory_limit.h"
#include "engine/scheduler.h"
#include "engine/stats.h"
#include "streamer/stream.h"

namespace streamer {

// How often a caller who waits is asked whether it was interrupted.
inline constexpr std::chrono::milliseconds kInterruptPoll{100};

inline Status stream_closed() { return Status::error(Code::kCancelled, "the stream was closed"); }

inline Status no_memory() {
  return Status::error(Code::kOutOfMemory, "the system has no memory for a read")
      .with_hint("Give the process more memory");
}

// See stream_open.cc.
struct Latch;

// Each worker owns it, too: the last one to end takes it down where a stream left workers behind.
class Stream::Impl : public std::enable_shared_from_this<Stream::Impl> {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)),
        budget_(std::make_shared<MemoryBudget>(initial_memory_limit(options_.memory_limit))),
        pool_(BlockPool::create(budget_)),
        scheduler_(std::make_shared<Scheduler>(budget_, pool_, options_.memory_limit,
                                               [this] { spawn(); })) {
    pool_->set_listener(scheduler_);
    if (options_.credentials) {
      // The provider is promised one call at a time.
      auto provider = options_.credentials;
      auto mutex = std::make_shared<std::mutex>();
      options_.credentials = [provider, mutex](const CredentialsRequest& request) {
        const std::lock_guard lock(*mutex);
        return provider(request);
      };
    }
  }

  ~Impl() {
    for (auto& destination : destinations_) destination.second.reset();
    pool_->close();
  }

  // Ends the workers; see ~Stream().
  void shut_down();

  // Whether this is another process than the one that made the stream.
  bool foreign() const { return getpid() != process_; }

  void cancel() noexcept {
    if (foreign()) return;
    cancel_.cancel();
    scheduler_->cancel(stream_closed());
  }

  Result<std::vector<OpenedFile>> open(const std::vector<std::string>& paths,
                                       std::uint64_t prefix_bytes);
  Status read(const std::vector<FileRanges>& wanted);
  Result<std::uint64_t> submit(std::vector<FileRanges> entries, Device device);
  Result<Batch> next(std::chrono::milliseconds timeout);
  Status unchanged(std::uint32_t file) const {
    if (file >= files_.size() || !files_[file].object) return {};
    return files_[file].object->unchanged();
  }

  Stats stats() const {
    if (foreign()) return {};
    Stats stats = stats_.snapshot(scheduler_->times(), *budget_);
    stats.threads = scheduler_->workers();
    stats.concurrency = scheduler_->concurrency();
    const std::lock_guard lock(destinations_mutex_);
    for (const auto& [ordinal, destination] : destinations_) destination->describe(&stats.notes);
    return stats;
  }

 private:
  // A worker's connections.
  class Worker {
   public:
    explicit Worker(Impl* impl) : impl_(impl) {}
    ~Worker() {
      readers_ = {};
      impl_->budget_->give_back(reader_bytes_);
    }
    Result<Reader*> reader(SourceKind kind);

   private:
    Impl* impl_;
    std::array<std::unique_ptr<Reader>, kSourceKinds> readers_;
    std::uint64_t reader_bytes_ = 0;
  };
  static thread_local Worker* worker_;

  void spawn();
  void work();
  void run(Chunk& chunk);
  void run_on_device(Chunk& chunk, Reader* reader);
  Status read(Chunk& chunk, Reader* reader, std::span<const iovec> segments, ReadReport* report);
  void finish(const Chunk& chunk, Status status, const ReadReport& report);
  Status ensure_source(SourceKind kind);
  static bool kept(const Chunk& chunk);
  Status wait(Latch* latch);
  Result<Destination*> destination(Device device);

  const pid_t process_ = getpid();
  Options options_;
  CancelToken cancel_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<BlockPool> pool_;
  const std::shared_ptr<Scheduler> scheduler_;
  StatsCollector stats_;
  std::array<std::unique_ptr<Source>, kSourceKinds> sources_;
  mutable std::mutex destinations_mutex_;
  std::map<int, std::unique_ptr<Destination>> destinations_;  // by ordinal
  std::vector<FileState> files_;
  std::uint64_t submissions_ = 0;

  std::atomic<int> writes_{0};  // to destinations that only the caller keeps
  std::mutex threads_mutex_;
  std::condition_variable ended_;
  std::vector<std::thread> threads_;
  int running_ = 0;  // of them
  bool closing_ = false;
};

}  // namespace streamer
