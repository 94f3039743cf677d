#include "engine/straggler_policy.h"

#include <utility>

namespace streamer {

void StragglerPolicy::add_worker() { ramped_up_.push_back(0); }

void StragglerPolicy::began(Chunk* chunk, TimePoint now) {
  chunk->progress = std::make_shared<ReadProgress>();
  detector_.began(chunk->progress, chunk->size, chunk->aborts, now);
}

void StragglerPolicy::ended(const Chunk& chunk, const ReadReport& report, TimePoint now) {
  if (!chunk.progress) return;
  detector_.ended(chunk.progress.get(), report.waited, now);
  ramped_up_[chunk.worker] = chunk.progress->aborted ? 0 : 1;
}

Chunk StragglerPolicy::take_requeued() {
  Chunk chunk = std::move(requeued_.front());
  requeued_.pop_front();
  return chunk;
}

}  // namespace streamer
