// The treatment of reads that are far slower than the others, and of the workers that had them.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/plan.h"
#include "engine/straggler_detector.h"

namespace streamer {

// A state without threads, clocks or system calls: the caller passes the time.
//
// The unread tail of an aborted chunk is requeued. There are never two reads that write to the same
// bytes, and no byte is read twice.
class StragglerPolicy {
 public:
  using TimePoint = Clock::time_point;

  // A worker was started; it has no connection yet.
  void add_worker();

  // Gives the chunk, which its worker begins to read, a progress to watch.
  void began(Chunk* chunk, TimePoint now);
  // No effect if the chunk was not watched.
  void ended(const Chunk& chunk, const ReadReport& report, TimePoint now);
  // Aborts reads that lag; cheap if the last check was less than 10 ms ago. `idle`: see
  // StragglerDetector::check().
  void check(bool idle, TimePoint now) { detector_.check(idle, now); }
  bool watching() const { return detector_.watching(); }
  // Received by the reads that are watched and have not ended.
  std::uint64_t bytes_in_flight() const { return detector_.bytes_in_flight(); }
  std::uint64_t aborts() const { return detector_.aborts(); }

  // The unread tail of an aborted chunk. If it throws, the tail is lost.
  void requeue(Chunk tail) { requeued_.push_back(std::move(tail)); }
  bool any_requeued() const { return !requeued_.empty(); }
  Chunk take_requeued();

  // True if the worker's connection is not at its full speed yet, while those of others are.
  bool ramps_up(WorkerId worker) const { return detector_.typical_known() && !ramped_up_[worker]; }
  // True if the worker's connection has brought nothing yet.
  bool begins(WorkerId worker) const { return !ramped_up_[worker]; }

 private:
  StragglerDetector detector_;
  std::deque<Chunk> requeued_;
  std::vector<char> ramped_up_;  // by worker: true if its last watched read ended by itself
};

}  // namespace streamer
