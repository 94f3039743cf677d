#include "streamer/stream.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "engine/stream_impl.h"

namespace streamer {

using std::chrono::milliseconds;

Result<Destination*> Stream::Impl::destination(Device device) {
  if (const auto known = destinations_.find(device.ordinal); known != destinations_.end()) {
    return known->second.get();
  }
  auto made = make_destination(device, options_, *budget_);
  if (!made) return made.status();
  const std::lock_guard lock(destinations_mutex_);
  return destinations_.emplace(device.ordinal, std::move(*made)).first->second.get();
}

Result<std::uint64_t> Stream::Impl::submit(std::vector<FileRanges> entries, Device device) {
  auto submission = std::make_shared<Submission>();
  submission->id = submissions_;
  submission->device = device;
  submission->entries = std::move(entries);
  if (device.type != DeviceType::kHost) {
    auto made = destination(device);
    if (!made) return made.status();
    submission->destination = *made;
    submission->max_chunk = (*made)->max_slot_bytes();
    if (Status status = (*made)->fence(device.stream); !status.ok()) return status;
    for (const FileRanges& entry : submission->entries) {
      if (entry.file < files_.size() && files_[entry.file].object) {
        files_[entry.file].object->expect_passing_reads();
      }
    }
  }
  std::vector<Block> blocks;
  const auto limit = options_.memory_limit > 0 ? static_cast<std::uint64_t>(options_.memory_limit)
                                               : MemoryBudget::kUnlimited;
  if (Status status = plan_blocks(submission, limit, &files_, &blocks); !status.ok()) {
    return status;
  }
  stats_.started();
  for (const FileRanges& entry : submission->entries) {
    if (!files_[entry.file].object) continue;
    const SourceKind kind = files_[entry.file].kind;
    const Source& source = *sources_[static_cast<int>(kind)];
    scheduler_->start_concurrency(kind, source.distance());
  }
  if (Status status = scheduler_->add_blocks(std::move(blocks), files_); !status.ok()) {
    return status;
  }
  return submissions_++;
}

Result<Batch> Stream::Impl::next(milliseconds timeout) {
  const auto deadline =
      timeout == milliseconds::max() ? Clock::time_point::max() : Clock::now() + timeout;
  Batch batch;
  for (;;) {
    const auto now = Clock::now();
    milliseconds slice = timeout;
    if (timeout != milliseconds::max()) {
      slice = std::max(milliseconds(0),
                       std::chrono::duration_cast<milliseconds>(deadline - now) + milliseconds(1));
    }
    if (options_.interrupted) slice = std::min(slice, kInterruptPoll);
    auto blocks = scheduler_->next(slice, &batch.finished);
    if (!blocks) return blocks.status();
    const Object* checked = nullptr;
    Status unchanged;
    for (Block& block : *blocks) {
      const FileState& file = files_[block.file];
      if (file.object && file.object.get() != checked) {
        checked = file.object.get();
        unchanged = checked->unchanged();
      }
      Ready ready;
      ready.submission = block.submission->id;
      ready.entry = block.entry;
      ready.file = block.file;
      ready.first_range = block.first;
      ready.count = block.count;
      ready.status = std::move(block.status);
      if (ready.status.ok() && file.object) ready.status = unchanged;
      if (ready.status.ok()) {
        stats_.delivered(file.kind, block.bytes);
        if (block.placement == Placement::kPool) {
          ready.data = block.data;
          ready.data_size = block.data_bytes;
          ready.positions = std::move(block.positions);
          ready.memory = std::move(block.memory);
        } else if (block.placement == Placement::kView) {
          ready.data = block.data;
          ready.data_size = block.data_bytes;
          ready.view = true;
          ready.positions = std::move(block.positions);
          const std::uint64_t offset = block.range(block.first).offset;
          ready.memory =
              std::shared_ptr<void>(block.data, [object = file.object, offset, size = block.bytes](
                                                    void*) { object->drop_view(offset, size); });
        }
      }
      batch.ready.push_back(std::move(ready));
    }
    if (!batch.ready.empty() || batch.finished) return batch;
    if (Clock::now() >= deadline) return batch;
    if (options_.interrupted && options_.interrupted()) {
      return Status::error(Code::kCancelled, "interrupted");
    }
  }
}

Stream::Stream(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Stream::~Stream() {
  // A forked child has the object, but not the threads: there is nothing to join and no lock to
  // trust.
  if (impl_->foreign()) {
    new std::shared_ptr<Impl>(std::move(impl_));  // NOLINT: never dropped
    return;
  }
  impl_->shut_down();
}

Result<std::unique_ptr<Stream>> Stream::create(Options options) {
  if (Status status = check_options(options); !status.ok()) return status;
  return std::unique_ptr<Stream>(new Stream(std::make_shared<Impl>(std::move(options))));
}

namespace {
Status forked() {
  return Status::error(Code::kInvalid,
                       "the stream belongs to the process that this one forked from")
      .with_hint("Open a new one in the child");
}
}  // namespace

Result<std::vector<OpenedFile>> Stream::open(const std::vector<std::string>& paths,
                                             std::uint64_t prefix_bytes) {
  if (impl_->foreign()) return forked();
  return impl_->open(paths, prefix_bytes);
}
Status Stream::read(const std::vector<FileRanges>& wanted) {
  if (impl_->foreign()) return forked();
  return impl_->read(wanted);
}
Result<std::uint64_t> Stream::submit(std::vector<FileRanges> entries, Device device) {
  if (impl_->foreign()) return forked();
  return impl_->submit(std::move(entries), device);
}
Result<Batch> Stream::next(milliseconds timeout) {
  if (impl_->foreign()) return forked();
  return impl_->next(timeout);
}
Status Stream::unchanged(std::uint32_t file) const {
  if (impl_->foreign()) return forked();
  return impl_->unchanged(file);
}
void Stream::cancel() noexcept { impl_->cancel(); }
Stats Stream::stats() const { return impl_->stats(); }

}  // namespace streamer
