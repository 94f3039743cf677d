#include "engine/plan.h"

#include <algorithm>
#include <bit>

#include "base/memory_units.h"
#include "base/segments.h"
#include "engine/strides.h"

namespace streamer {
namespace {

constexpr std::uint64_t kMaxAlignment = 64;
// From this size on, memory and file have the same offset within kDirectAlignment, so that the file
// can be read past the page cache straight into the memory.
constexpr std::uint64_t kDirectBytes = kMiB;

Status check_range(const Range& range, const FileState& file) {
  if (range.alignment == 0 || range.alignment > kMaxAlignment ||
      !std::has_single_bit(range.alignment)) {
    return Status::error(Code::kInvalid, "alignment " + std::to_string(range.alignment) +
                                             " is not a power of two up to 64")
        .with_path(file.path);
  }
  const auto reach = extent(range);
  if (!reach) {
    return Status::error(Code::kInvalid, "the strides of a range do not make up its bytes")
        .with_path(file.path)
        .with_range(range.offset, range.size);
  }
  if (file.status.ok() &&
      (*reach > file.object->size() || range.offset > file.object->size() - *reach)) {
    return Status::error(Code::kShortRead, "the range ends behind the object's " +
                                               std::to_string(file.object->size()) + " bytes")
        .with_path(file.path)
        .with_range(range.offset, range.size)
        .with_hint("The file is truncated, or the ranges were made for another one");
  }
  return {};
}

// Lays out the ranges in memory of 64 byte alignment: as in the object if that satisfies every
// alignment, so that memory and a view of the object can be exchanged; else packed. Bytes below
// `viewed` are not viewed once more.
void lay_out(Block* block, std::uint64_t* viewed) {
  bool contiguous = true;
  bool aligned = true;
  const std::uint64_t start = block->range(0).offset;
  std::uint64_t end = start;
  for (std::uint32_t i = 0; i < block->count; ++i) {
    const Range& range = block->range(i);
    contiguous = contiguous && range.offset == end && !range.strides;
    aligned = aligned && range.offset % range.alignment == 0;
    end = range.offset + range.size;
  }
  const Object* const object = block->file().object.get();
  block->viewable = contiguous && aligned && block->bytes > 0 && object != nullptr &&
                    block->ownership() != Ownership::kCopied && object->may_have_view() &&
                    start >= *viewed;
  const std::uint64_t unit = block->bytes >= kDirectBytes ? kDirectAlignment : kMaxAlignment;
  block->page_offset = block->viewable ? start % unit : 0;
  std::uint64_t at = block->page_offset;
  block->offsets.reserve(block->count);
  for (std::uint32_t i = 0; i < block->count; ++i) {
    const Range& range = block->range(i);
    if (!block->viewable) at = round_up(at, range.alignment);
    block->offsets.push_back(at);
    at += range.size;
  }
  block->data_bytes = at;
  if (block->viewable) *viewed = end;
}

// The block whose first range is number `first` of that entry. Small ranges share it.
Block form_block(const std::shared_ptr<Submission>& submission, std::uint32_t entry,
                 std::uint32_t first, std::uint64_t group, std::uint64_t* viewed) {
  const std::vector<Range>& ranges = submission->entries[entry].ranges;
  Block block;
  block.submission = submission;
  block.entry = entry;
  block.first = first;
  const bool of_caller = ranges[first].destination != nullptr;
  std::uint64_t packed = 0;  // bytes with padding
  for (std::size_t next = first; next < ranges.size(); ++next) {
    const Range& range = ranges[next];
    packed = round_up(packed, range.alignment) + range.size;
    const bool small = range.size < kSmallRange;
    const bool joins = block.count == 0 ||
                       ((range.destination != nullptr) == of_caller && small && packed <= group);
    if (!joins) break;
    block.bytes += range.size;
    ++block.count;
    if (!small) break;
  }
  if (submission->device.type != DeviceType::kHost) {
    block.memory = BlockMemory::kDevice;
  } else if (of_caller) {
    block.memory = BlockMemory::kCaller;
  } else {
    lay_out(&block, viewed);
  }
  const Status& opened = block.file().status;
  if (!opened.ok()) {
    block.status = opened;
    block.scheduled = block.completed = block.bytes;
  }
  return block;
}

}  // namespace

Status find_files(const FileTable& files, Submission* submission) {
  submission->files.reserve(submission->entries.size());
  for (const FileRanges& entry : submission->entries) {
    if (entry.file >= files.size() || !files[entry.file]) {
      return Status::error(Code::kInvalid,
                           "no file number " + std::to_string(entry.file) + " was opened");
    }
    submission->files.push_back(files[entry.file]);
  }
  return {};
}

Result<Plan> Plan::make(std::shared_ptr<Submission> submission, std::uint64_t max_group) {
  Plan plan(std::move(submission), std::min(kGroupBytes, max_group));
  const FileTable& files = plan.submission_->files;
  Status status = plan.check();
  if (!status.ok()) {
    for (std::size_t i = plan.viewed_.size(); i-- > 0;) files[i]->viewed = plan.viewed_[i];
    return status;
  }
  plan.pass_finished_entries();
  return plan;
}

Status Plan::check() {
  const bool device = submission_->device.type != DeviceType::kHost;
  viewed_.reserve(submission_->entries.size());
  for (std::uint32_t entry = 0; entry < submission_->entries.size(); ++entry) {
    const std::vector<Range>& ranges = submission_->entries[entry].ranges;
    FileState& file = *submission_->files[entry];
    viewed_.push_back(file.viewed);
    for (const Range& range : ranges) {
      if (Status status = check_range(range, file); !status.ok()) return status;
      if (device && range.destination == nullptr && range.size > 0) {
        return Status::error(Code::kInvalid, "a range for a device needs a destination")
            .with_path(file.path)
            .with_range(range.offset, range.size);
      }
    }
    for (std::uint32_t next = 0; next < ranges.size();) {
      Block block = form_block(submission_, entry, next, max_group_, &file.viewed);
      next += block.count;
      bytes_ += block.bytes;
      bytes_to_read_ += block.bytes - block.scheduled;
      const bool takes_memory = block.memory == BlockMemory::kPool && block.bytes > 0;
      if (takes_memory && (!largest_ || block.data_bytes > largest_->data_bytes)) {
        largest_ = std::move(block);
      }
    }
  }
  return {};
}

void Plan::pass_finished_entries() {
  const std::vector<FileRanges>& entries = submission_->entries;
  while (entry_ < entries.size() && range_ == entries[entry_].ranges.size()) {
    ++entry_;
    range_ = 0;
  }
}

Block Plan::next() {
  Block block = form_block(submission_, entry_, range_, max_group_, &viewed_[entry_]);
  range_ += block.count;
  pass_finished_entries();
  return block;
}

Chunk split_off(Chunk* chunk, std::uint64_t bytes) {
  Chunk rest = *chunk;  // the only step that may throw: its lists have room for the rest
  rest.progress = nullptr;
  rest.offset += bytes;
  rest.size -= bytes;
  rest.segments.clear();
  rest.shares.clear();
  ++rest.aborts;
  std::uint64_t left = bytes;
  std::uint64_t wanted = 0;  // of the bytes that `chunk` keeps
  for (iovec& segment : chunk->segments) {
    const std::uint64_t kept = std::min<std::uint64_t>(left, segment.iov_len);
    left -= kept;
    if (kept < segment.iov_len) rest.segments.push_back(behind(segment, kept));
    if (!is_gap(segment)) wanted += kept;
    segment.iov_len = kept;
  }
  std::erase_if(chunk->segments, [](const iovec& segment) { return segment.iov_len == 0; });
  if (!rest.segments.empty() && is_gap(rest.segments.front())) {
    const std::uint64_t gap = rest.segments.front().iov_len;
    rest.offset += gap;
    rest.size -= gap;
    rest.segments.erase(rest.segments.begin());
  }
  left = wanted;
  for (Chunk::Share& share : chunk->shares) {
    const std::uint64_t kept = std::min(left, share.bytes);
    left -= kept;
    if (kept < share.bytes) rest.shares.push_back({share.block, share.bytes - kept});
    share.bytes = kept;
  }
  std::erase_if(chunk->shares, [](const Chunk::Share& share) { return share.bytes == 0; });
  chunk->size = bytes;
  return rest;
}

}  // namespace streamer
