// How a scheduler forms chunks at its cursor.
#include <algorithm>

#include "engine/scheduler.h"

namespace streamer {
namespace {

// How far views are populated ahead of the consumer.
constexpr std::uint64_t kViewsAhead = 512 * kMiB;
constexpr std::size_t kMaxSegments = 1024;  // IOV_MAX
constexpr std::uint64_t kFirstRead = kMiB;

}  // namespace

// Asks the object, once, whether the block is to be a part of its view.
void Scheduler::choose_view_locked(Block& block) {
  if (!block.viewable) return;
  block.viewable = false;
  const Object& object = *files_[block.file].object;
  const std::uint64_t offset = block.range(block.first).offset;
  if (!object.take_view(offset, block.bytes)) return;
  block.placement = Placement::kView;
  block.data = object.view() + offset - block.skew;
}

// Finds memory for `block`. `first` tells that nothing can go on before it has some.
bool Scheduler::place_locked(Block& block, bool first) {
  if (block.placement == Placement::kView) {
    // A view takes no memory of the engine, but there is no use in running far ahead.
    const bool counted = block.scheduled > 0;
    if (!counted && views_ahead_ > 0 && views_ahead_ + block.bytes > kViewsAhead) return false;
    if (!counted) views_ahead_ += block.bytes;
    return true;
  }
  if (block.placed()) return true;
  const Pages pages = files_[block.file].kind == SourceKind::kFile ? Pages::kHuge : Pages::kSmall;
  bool refused = false;
  block.memory = pool_->allocate(block.data_bytes, pages, false, &refused);
  const bool starving = first && &block == &blocks_.front() && chunks_under_way_ == 0;
  if (!block.memory && !refused && starving) {
    // The consumer gets nothing before this block has memory: what it holds is its own.
    release_handed_locked();
    block.memory = pool_->allocate(block.data_bytes, pages, true, &refused);
  }
  if (refused) {
    block.status =
        Status::error(Code::kOutOfMemory,
                      "the system has no memory for " + std::to_string(block.data_bytes) + " bytes")
            .with_path(files_[block.file].path)
            .with_hint("Lower RUNAI_STREAMER_MEMORY_LIMIT, or give the process more memory");
    return true;
  }
  if (!block.memory) return false;
  block.data = block.memory->data;
  return true;
}

std::optional<Chunk> Scheduler::make_chunk_locked() {
  Chunk chunk;
  SourceLimits* source = nullptr;
  std::uint64_t limit = 0;
  bool progressed = false;
  while (work_left_locked()) {
    Block& block = blocks_[cursor_];
    const FileState& file = files_[block.file];
    if (block.scheduled == block.bytes) {  // empty, or failed when its file was opened
      progressed = true;
      ++cursor_;
      cursor_range_ = 0;
      cursor_byte_ = 0;
      continue;
    }
    choose_view_locked(block);
    if (chunk.size == 0) {
      source = &sources_.at(file.kind);
      limit = limit_locked(*source, block);
      if (source->active >= source->controller.limit()) break;
    } else if (!continues_locked(chunk, block)) {
      break;
    }
    if (!place_locked(block, chunk.size == 0)) {
      if (chunk.size == 0) {
        const bool ready = blocks_.front().done() || chunks_under_way_ == 0;
        note_blocked_locked(ready ? Blocked::kConsumer : Blocked::kMemory);
      }
      break;
    }
    if (chunk.size == 0) note_blocked_locked(Blocked::kNo);
    if (!block.status.ok()) {  // what was not read yet fails without a read
      block.completed += block.bytes - block.scheduled;
      block.scheduled = block.bytes;
      continue;
    }
    append_locked(block, limit, &chunk);
    if (block.scheduled < block.bytes || chunk.size >= limit) break;
  }
  if (progressed) ready_.notify_all();
  if (chunk.size == 0) return std::nullopt;
  ++chunks_under_way_;
  return chunk;
}

// Bytes that a chunk which starts at the cursor in `block` may have.
std::uint64_t Scheduler::limit_locked(const SourceLimits& source, const Block& block) const {
  std::uint32_t index = cursor_range_;
  while (block.range(block.first + index).size == cursor_byte_) ++index;
  const std::uint64_t start =
      block.range(block.first + index).offset + (index == cursor_range_ ? cursor_byte_ : 0);
  if (block.placement != Placement::kView) {
    // The next chunk starts aligned: it can be read past the page cache as it is.
    std::uint64_t limit = std::min(source.chunk_bytes, block.submission->max_chunk);
    // A new connection should not hold what comes behind in the order for long.
    if (source.hedge && cold_locked()) limit = std::min(limit, kFirstRead);
    return limit > kDirectAlignment ? limit - (start + limit) % kDirectAlignment : limit;
  }
  // Parts of a view end at whole multiples, so that no two workers fault in the same huge page.
  return source.view_chunk_bytes - start % source.view_chunk_bytes;
}

bool Scheduler::continues_locked(const Chunk& chunk, const Block& block) const {
  if (files_[block.file].object != chunk.object || block.placement != chunk.placement ||
      block.submission->destination != chunk.destination) {
    return false;
  }
  std::uint32_t index = 0;
  while (block.range(block.first + index).size == 0) ++index;
  return block.range(block.first + index).offset == chunk.offset + chunk.size;
}

// Adds to `chunk` what follows at the cursor in `block`, up to `limit` bytes in all.
void Scheduler::append_locked(Block& block, std::uint64_t limit, Chunk* chunk) {
  while (cursor_range_ < block.count && chunk->size < limit &&
         chunk->segments.size() < kMaxSegments) {
    const Range& range = block.range(block.first + cursor_range_);
    const std::uint64_t start = range.offset + cursor_byte_;
    const std::uint64_t left = range.size - cursor_byte_;
    if (left > 0) {
      if (chunk->size == 0) {
        const FileState& file = files_[block.file];
        chunk->object = file.object;
        chunk->kind = file.kind;
        chunk->placement = block.placement;
        chunk->destination = block.submission->destination;
        chunk->offset = start;
      } else if (start != chunk->offset + chunk->size) {
        return;  // a gap that nobody wants
      }
      const std::uint64_t size = std::min(left, limit - chunk->size);
      std::byte* target = cursor_byte_ + (range.destination != nullptr
                                              ? static_cast<std::byte*>(range.destination)
                                              : block.data + block.positions[cursor_range_]);
      iovec* last = chunk->segments.empty() ? nullptr : &chunk->segments.back();
      if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == target) {
        last->iov_len += size;
      } else {
        chunk->segments.push_back({target, size});
      }
      if (chunk->shares.empty() || chunk->shares.back().block != &block) {
        chunk->shares.push_back({&block, 0});
      }
      chunk->shares.back().bytes += size;
      chunk->size += size;
      block.scheduled += size;
      cursor_byte_ += size;
      if (size < left) return;
    }
    ++cursor_range_;
    cursor_byte_ = 0;
  }
}

}  // namespace streamer
