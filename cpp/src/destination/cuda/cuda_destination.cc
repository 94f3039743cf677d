#include "destination/cuda/cuda_destination.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "base/default_sizes.h"
#include "base/memory_units.h"
#include "base/settings.h"
#include "destination/cuda/copy_queue.h"
#include "destination/cuda/gpudirect.h"
#include "destination/cuda/pinned_pool.h"
#include "destination/cuda/trace.h"

namespace streamer {
namespace {

using gpu::CopyQueue;
using gpu::CopyStream;
using gpu::DeviceContext;
using gpu::Driver;
using gpu::GpuDirect;
using gpu::PinnedPool;
using gpu::PinnedSlot;
using gpu::Trace;

constexpr std::uint64_t kMaxSlot = 16 * kMiB;
constexpr std::uint64_t kMinSlot = 64 * kKiB;
// Enough for a link of 64 GB/s whose ends are seen half a millisecond late.
constexpr std::uint64_t kCopyingEnough = 32 * kMiB;

PinnedPool::Limits pool_limits(std::uint64_t pinned, const Options& options) {
  return {.bytes = pinned,
          .least_slot = kMinSlot,
          .most_slot = std::max(options.chunk_bytes, kMaxSlot),
          .copying_enough = kCopyingEnough};
}

class CudaDestination : public Destination {
 public:
  CudaDestination(DeviceContext context, PinnedPool::Limits limits, MemoryBudget& budget,
                  std::string trace)
      : context_(std::move(context)),
        pool_(std::make_unique<PinnedPool>(context_, budget, limits)),
        trace_(std::move(trace)) {}

  ~CudaDestination() override {
    if (!forked()) return;
    // Threads, copies and locks are the parent's: here they can be neither used nor taken down.
    trace_.abandon();
    if (direct_) direct_->abandon();
    (void)direct_.release();
    (void)queue_.release();
    (void)pool_.release();
    context_.abandon();
  }

  Status start(std::chrono::seconds timeout) {
    auto queue = CopyQueue::create(context_, *pool_, timeout);
    if (!queue.ok()) return queue.status();
    queue_ = std::move(*queue);
    return {};
  }

  // Has files read by GPUDirect Storage if that works.
  void use_gpudirect(const std::string& library) {
    auto direct = GpuDirect::open(context_, library);
    if (direct) {
      direct_ = std::move(*direct);
    } else {
      no_gpudirect_ = direct.status().to_string();
    }
  }

  const char* file_strategy() const override { return direct_ ? "gpudirect" : nullptr; }

  bool read_file(int fd, std::uint64_t offset, std::span<const iovec> segments) override {
    return !forked() && direct_->read(fd, offset, segments);
  }

  Status fence(void* stream) override {
    if (forked()) return forked_error();
    // Reads by GPUDirect Storage know no streams: they start after it in any case.
    if (direct_) {
      if (Status status = queue_->wait_for(stream); !status.ok()) return status;
    }
    return queue_->fence(stream);
  }

  std::uint64_t max_slot_bytes() const override { return pool_->max_slot(); }

  Result<StagingSlot> stage(std::uint64_t bytes, std::uint64_t offset,
                            const CancelToken& cancel) override {
    if (forked()) return forked_error();
    if (bytes > max_slot_bytes()) {
      return Status::error(Code::kInternal, "a slot of " + std::to_string(bytes) +
                                                " bytes was asked for; the most is " +
                                                std::to_string(max_slot_bytes()));
    }
    auto slot = pool_->take(bytes, cancel);
    if (!slot.ok()) return slot.status();
    if (trace_.enabled()) (*slot)->since = Clock::now();
    (*slot)->start = offset % kDirectAlignment;
    return StagingSlot{(*slot)->memory + (*slot)->start, (*slot)->size, *slot};
  }

  void copy(StagingSlot slot, std::span<const iovec> segments,
            std::function<void(Status)> done) override {
    auto* const pinned = static_cast<PinnedSlot*>(slot.handle);
    if (forked()) {
      done(forked_error());
      return;
    }
    if (trace_.enabled()) {
      std::uint64_t bytes = 0;
      for (const iovec& segment : segments) bytes += segment.iov_len;
      trace_.add("read", pinned->since, bytes);
      done = [this, bytes, begin = Clock::now(), done = std::move(done)](Status status) {
        trace_.add("copy", begin, bytes);
        done(std::move(status));
      };
    }
    queue_->copy(pinned, segments, std::move(done));
  }

  void discard(StagingSlot slot) override {
    if (!forked()) pool_->give_back(static_cast<PinnedSlot*>(slot.handle));
  }

  void share(std::size_t destinations) override {
    if (!forked()) pool_->share(destinations);
  }

  void describe(std::map<std::string, std::string>* notes) const override {
    if (forked()) return;
    const std::string name = context_.name();
    (*notes)[name + " pinned bytes"] = std::to_string(pool_->pinned_peak());
    if (direct_ || !no_gpudirect_.empty()) {
      (*notes)["GPUDirect Storage"] = direct_ ? direct_->summary() : "not used: " + no_gpudirect_;
    }
    if (std::string why = pool_->growth_stopped(); !why.empty()) {
      (*notes)[name + " pinned memory stopped growing"] = std::move(why);
    }
  }

 private:
  bool forked() const { return getpid() != process_; }
  Status forked_error() const {
    return Status::error(Code::kDevice, "this stream to " + context_.name() +
                                            " belongs to the process that this one was forked from")
        .with_hint(
            "Start worker processes by spawn or forkserver, or use the GPU only after the fork");
  }

  const pid_t process_ = getpid();
  DeviceContext context_;
  std::unique_ptr<PinnedPool> pool_;
  Trace trace_;
  std::unique_ptr<CopyQueue> queue_;  // ends before the pool: it uses it
  std::unique_ptr<GpuDirect> direct_;
  std::string no_gpudirect_;  // the reason if it was asked for and is not used
};

}  // namespace

Result<std::unique_ptr<Destination>> make_cuda_destination(int ordinal, const Options& options,
                                                           MemoryBudget& budget) {
  const Settings settings(options.source);
  const auto pinned = settings.integer("RUNAI_STREAMER_CUDA_PINNED_LIMIT");
  if (!pinned.ok()) return pinned.status();
  const auto timeout = settings.number("RUNAI_STREAMER_CUDA_TIMEOUT");
  if (!timeout.ok()) return timeout.status();
  const auto gpudirect = settings.enabled("RUNAI_STREAMER_GPUDIRECT");
  if (!gpudirect.ok()) return gpudirect.status();
  const auto driver = Driver::load(settings.text("RUNAI_STREAMER_CUDA_LIBRARY").value_or(""));
  if (!driver.ok()) return driver.status();
  auto context = DeviceContext::find(**driver, ordinal);
  if (!context.ok()) return context.status();
  auto destination = std::make_unique<CudaDestination>(
      std::move(*context),
      pool_limits(static_cast<std::uint64_t>(pinned->value_or(kPinned)), options), budget,
      settings.text("RUNAI_STREAMER_CUDA_TRACE").value_or(""));
  Status status = destination->start(std::chrono::seconds(*timeout));
  if (!status.ok()) return status;
  if (*gpudirect) {
    destination->use_gpudirect(settings.text_or_default("RUNAI_STREAMER_CUFILE_LIBRARY"));
  }
  return std::unique_ptr<Destination>(std::move(destination));
}

}  // namespace streamer
