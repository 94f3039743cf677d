// The views of a stream that its consumer holds, and their change into memory of the process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/memory_budget.h"
#include "base/mutex.h"
#include "source/source.h"
#include "streamer/types.h"

namespace streamer {

// Thread-safe, except that one thread handles the batches. A view that is dropped within two
// batches is not recorded.
class HeldViews {
 public:
  explicit HeldViews(std::shared_ptr<MemoryBudget> budget) : budget_(std::move(budget)) {}

  // The consumer has returned: a batch of views begins.
  void begin_batch() EXCLUDES(mutex_);
  // The memory of a view of this batch, at `data`: its holder holds the view.
  std::shared_ptr<void> hand_out(const std::shared_ptr<const Object>& object, std::uint64_t offset,
                                 std::uint64_t size, std::byte* data, Ownership ownership)
      EXCLUDES(mutex_);

  // The consumer gets an error that `object` has changed; detaching then need not report it again.
  // True: this is the first time.
  bool mark_changed(const Object* object) EXCLUDES(mutex_);

  // True if the consumer seems to keep the views that it gets: it holds many bytes of
  // Ownership::kOwned that are older than two batches. Further views would only be copied later,
  // too.
  bool many_are_kept() const;

  // Detaches the held views of Ownership::kOwned: all of them, or all but those of the object that
  // the present batch ends with: the consumer has returned from that batch, and left the others.
  // Shared by several threads, this one included. kChanged: see Stream::detach_views(). kCancelled:
  // `interrupted` returned true; the rest still is to be detached.
  Status detach_all(const std::function<bool()>& interrupted) EXCLUDES(detaching_, mutex_);
  Status detach_left(const std::function<bool()>& interrupted) EXCLUDES(detaching_, mutex_);

 private:
  class View;
  struct Entry {
    std::shared_ptr<const Object> object;
    std::weak_ptr<View> view;
  };
  using Entries = std::vector<Entry>;
  class Detaching;
  static void move_others(const Object* object, Entries* from, Entries* to);
  Status detach_held(bool all, const std::function<bool()>& interrupted)
      EXCLUDES(detaching_, mutex_);
  Status detach(Entries entries, const std::function<bool()>& interrupted) REQUIRES(detaching_);

  const std::shared_ptr<MemoryBudget> budget_;
  // Bytes of views that are older than two batches. Views outlive the stream.
  const std::shared_ptr<std::atomic<std::uint64_t>> kept_bytes_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);

  Mutex detaching_;  // held while views are detached, not while one is handed out
  Mutex mutex_;
  Entries batch_ GUARDED_BY(mutex_);
  Entries batch_before_ GUARDED_BY(mutex_);
  Entries kept_ GUARDED_BY(mutex_);
  const Object* last_ GUARDED_BY(mutex_) = nullptr;  // of the present batch
  std::vector<const Object*> changed_ GUARDED_BY(mutex_);
};

}  // namespace streamer
