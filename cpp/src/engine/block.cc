#include "engine/block.h"

#include <algorithm>
#include <bit>

#include "base/memory_units.h"

namespace streamer {
namespace {

constexpr std::uint64_t kMaxAlignment = 64;
// From this size on, memory and file have the same offset within kDirectAlignment, so that the file
// can be read past the page cache straight into it.
constexpr std::uint64_t kDirectBytes = kMiB;

Status check(const Range& range, const FileState& file) {
  if (range.alignment == 0 || range.alignment > kMaxAlignment ||
      !std::has_single_bit(range.alignment)) {
    return Status::error(Code::kInvalid, "alignment " + std::to_string(range.alignment) +
                                             " is not a power of two up to 64")
        .with_path(file.path);
  }
  if (file.status.ok() &&
      (range.size > file.object->size() || range.offset > file.object->size() - range.size)) {
    return Status::error(Code::kShortRead, "the range ends behind the object's " +
                                               std::to_string(file.object->size()) + " bytes")
        .with_path(file.path)
        .with_range(range.offset, range.size)
        .with_hint("The file is truncated, or the ranges were made for another one");
  }
  return {};
}

// Lays out the ranges in memory of 64 byte alignment: as in the object where that satisfies every
// alignment, so that memory and a view of the object serve alike; else packed.
void lay_out(Block* block, FileState& file) {
  const Range& first = block->range(block->first);
  bool contiguous = true;
  bool aligned = true;
  std::uint64_t end = first.offset;
  for (std::uint32_t i = 0; i < block->count; ++i) {
    const Range& range = block->range(block->first + i);
    contiguous = contiguous && range.offset == end;
    aligned = aligned && range.offset % range.alignment == 0;
    end = range.offset + range.size;
  }
  const bool as_is = contiguous && aligned;
  block->viewable = as_is && block->bytes > 0 && file.object && file.object->view() != nullptr &&
                    first.offset >= file.viewed;
  if (block->viewable) file.viewed = end;
  const std::uint64_t unit = block->bytes >= kDirectBytes ? kDirectAlignment : kMaxAlignment;
  block->skew = block->viewable ? first.offset % unit : 0;
  std::uint64_t packed = block->skew;
  block->positions.reserve(block->count);
  for (std::uint32_t i = 0; i < block->count; ++i) {
    const Range& range = block->range(block->first + i);
    if (!block->viewable) packed = round_up(packed, range.alignment);
    block->positions.push_back(packed);
    packed += range.size;
  }
  block->data_bytes = packed;
}

}  // namespace

Status plan_blocks(const std::shared_ptr<Submission>& submission, std::uint64_t max_group,
                   std::vector<FileState>* files, std::vector<Block>* blocks) {
  const std::uint64_t group = std::min(kGroupBytes, max_group);
  const bool device = submission->device.type != DeviceType::kHost;
  for (std::uint32_t entry = 0; entry < submission->entries.size(); ++entry) {
    const FileRanges& wanted = submission->entries[entry];
    if (wanted.file >= files->size()) {
      return Status::error(Code::kInvalid,
                           "no file number " + std::to_string(wanted.file) + " was opened");
    }
    FileState& file = (*files)[wanted.file];
    const auto total = static_cast<std::uint32_t>(wanted.ranges.size());
    for (std::uint32_t first = 0; first < total;) {
      Block block;
      block.submission = submission;
      block.entry = entry;
      block.file = wanted.file;
      block.first = first;
      const bool given = wanted.ranges[first].destination != nullptr;
      std::uint64_t packed = 0;  // bytes with what alignment adds
      while (first < total) {
        const Range& range = wanted.ranges[first];
        if (Status status = check(range, file); !status.ok()) return status;
        if (device && range.destination == nullptr && range.size > 0) {
          return Status::error(Code::kInvalid, "a range for a device needs a destination")
              .with_path(file.path)
              .with_range(range.offset, range.size);
        }
        packed = round_up(packed, range.alignment) + range.size;
        const bool joins = block.count == 0 || ((range.destination != nullptr) == given &&
                                                range.size < kSmallRange && packed <= group);
        if (!joins) break;
        const bool alone = range.size >= kSmallRange;
        block.bytes += range.size;
        ++block.count;
        ++first;
        if (alone) break;
      }
      if (device) {
        block.placement = Placement::kDevice;
      } else if (given) {
        block.placement = Placement::kCaller;
      } else {
        lay_out(&block, file);
      }
      if (!file.status.ok()) {
        block.status = file.status;
        block.scheduled = block.completed = block.bytes;
      }
      blocks->push_back(std::move(block));
    }
  }
  return {};
}

}  // namespace streamer
