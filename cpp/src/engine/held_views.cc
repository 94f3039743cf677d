#include "engine/held_views.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/blocked_signals.h"
#include "base/clock.h"
#include "base/memory_map.h"
#include "base/memory_units.h"
#include "base/system.h"
#include "engine/statuses.h"

namespace streamer {
namespace {

constexpr std::uint64_t kManyBytes = 128 * kMiB;
constexpr std::uint64_t kPartBytes = kMiB;  // that a thread detaches at a time
constexpr std::size_t kPartsOfAThread = 4;  // that are worth starting one
constexpr std::size_t kMostThreads = 16;
constexpr std::chrono::milliseconds kBetweenQuestions{100};

// A whole number of pages. One part alone does not exceed the limit.
std::uint64_t part_bytes(std::uint64_t limit) {
  return std::max(page_size(), round_down(std::min(limit, kPartBytes), page_size()));
}

// A whole number of pages of an object.
struct Span {
  const Object* object = nullptr;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
};

// `spans` in order, without overlap.
void merge(std::vector<Span>* spans) {
  std::sort(spans->begin(), spans->end(), [](const Span& one, const Span& other) {
    return one.object != other.object ? std::less<>()(one.object, other.object)
                                      : one.start < other.start;
  });
  std::size_t count = 0;
  for (const Span& span : *spans) {
    if (count > 0 && (*spans)[count - 1].object == span.object &&
        (*spans)[count - 1].end >= span.start) {
      (*spans)[count - 1].end = std::max((*spans)[count - 1].end, span.end);
    } else {
      (*spans)[count++] = span;
    }
  }
  spans->resize(count);
}

}  // namespace

class HeldViews::View {
 public:
  View(std::shared_ptr<const Object> object, std::uint64_t offset, std::uint64_t size,
       std::shared_ptr<std::atomic<std::uint64_t>> kept_bytes)
      : mapping_(object->mapping()),
        object_(mapping_ ? nullptr : std::move(object)),
        offset_(offset),
        size_(size),
        kept_bytes_(std::move(kept_bytes)) {}
  ~View() {
    if (kept_) kept_bytes_->fetch_sub(size_, std::memory_order_relaxed);
    if (mapping_) mapping_->release_view(offset_, size_);
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  // By its holder, once.
  void keep() {
    kept_ = true;
    kept_bytes_->fetch_add(size_, std::memory_order_relaxed);
  }
  Span span(const Object* object) const {
    return {object, round_down(offset_, page_size()), round_up(offset_ + size_, page_size())};
  }

 private:
  // Not the object if there is a mapping: it has descriptors, and a view may live for ever.
  const std::shared_ptr<ViewMapping> mapping_;
  const std::shared_ptr<const Object> object_;
  const std::uint64_t offset_;
  const std::uint64_t size_;
  bool kept_ = false;
  const std::shared_ptr<std::atomic<std::uint64_t>> kept_bytes_;
};

void HeldViews::begin_batch() {
  Entries gone;  // outlive the lock: views take others
  std::vector<std::shared_ptr<View>> held;
  const MutexLock lock(mutex_);
  held.reserve(batch_before_.size());
  kept_.reserve(kept_.size() + batch_before_.size());
  for (Entry& entry : batch_before_) {
    std::shared_ptr<View> view = entry.view.lock();
    if (!view) continue;
    view->keep();
    held.push_back(std::move(view));
    kept_.push_back(std::move(entry));
  }
  gone = std::exchange(batch_before_, std::exchange(batch_, {}));
}

std::shared_ptr<void> HeldViews::hand_out(const std::shared_ptr<const Object>& object,
                                          std::uint64_t offset, std::uint64_t size, std::byte* data,
                                          Ownership ownership) {
  auto view = std::make_shared<View>(object, offset, size, kept_bytes_);
  const MutexLock lock(mutex_);
  if (ownership == Ownership::kOwned) batch_.push_back({object, view});
  last_ = object.get();
  return {std::move(view), data};
}

bool HeldViews::mark_changed(const Object* object) {
  const MutexLock lock(mutex_);
  if (std::find(changed_.begin(), changed_.end(), object) != changed_.end()) return false;
  changed_.push_back(object);
  return true;
}

bool HeldViews::many_are_kept() const {
  return kept_bytes_->load(std::memory_order_relaxed) > kManyBytes;
}

// Moves the entries of `from` that are not of `object` to `to`.
void HeldViews::move_others(const Object* object, Entries* from, Entries* to) {
  const auto of_object = [object](const Entry& entry) { return entry.object.get() == object; };
  // Entries come object by object.
  if (from->empty() || (of_object(from->front()) && of_object(from->back()))) return;
  const auto others = std::stable_partition(from->begin(), from->end(), of_object);
  std::move(others, from->end(), std::back_inserter(*to));
  from->erase(others, from->end());
}

Status HeldViews::detach_all(const std::function<bool()>& interrupted) {
  return detach_held(/*all=*/true, interrupted);
}

Status HeldViews::detach_left(const std::function<bool()>& interrupted) {
  return detach_held(/*all=*/false, interrupted);
}

Status HeldViews::detach_held(bool all, const std::function<bool()>& interrupted) {
  const MutexLock detaching(detaching_);
  Entries entries;
  {
    const MutexLock lock(mutex_);
    const Object* const present = all ? nullptr : last_;
    for (Entries* some : {&kept_, &batch_before_, &batch_}) move_others(present, some, &entries);
  }
  return detach(std::move(entries), interrupted);
}

// The parts of one detach(), which several threads take one by one.
class HeldViews::Detaching {
 public:
  Detaching(const std::vector<Span>& spans, std::uint64_t most, MemoryBudget& budget)
      : budget_(budget) {
    for (const Span& span : spans) {
      // One mapping for each span: parts that are put side by side become one again.
      std::byte* const memory = map_memory(span.end - span.start);
      if (memory == nullptr) {
        add_error(span.object, no_memory_for(span));
        continue;
      }
      for (std::uint64_t at = span.start; at < span.end; at += most) {
        parts_.push_back(
            {span.object, at, std::min(span.end - at, most), memory + (at - span.start)});
      }
    }
  }
  ~Detaching() {
    for (std::size_t i = next_; i < parts_.size(); ++i) {
      unmap_memory(parts_[i].memory, parts_[i].size);
    }
  }
  Detaching(const Detaching&) = delete;
  Detaching& operator=(const Detaching&) = delete;

  std::size_t size() const { return parts_.size(); }

  // Detaches parts until there are none, or until `go_on` returns false.
  template <typename GoOn>
  void work(GoOn go_on) noexcept {
    while (go_on()) {
      const std::size_t index = next_.fetch_add(1);
      if (index >= parts_.size()) break;
      const Part& part = parts_[index];
      budget_.take(part.size);
      try {
        Status status = part.object->detach_view(part.offset, part.size, part.memory);
        if (!status.ok()) add_error(part.object, std::move(status));
      } catch (const std::bad_alloc&) {
        without_memory_ = true;
      }
      budget_.give_back(part.size);
    }
  }
  void stop() { stopped_ = true; }
  bool stopped() const { return stopped_; }

  // The first error of `object`.
  Status status_of(const Object* object) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    for (auto& [failed, status] : errors_) {
      if (failed == object) return status;
    }
    return without_memory_ ? no_memory() : Status();
  }

 private:
  struct Part {
    const Object* object;
    std::uint64_t offset;
    std::uint64_t size;
    std::byte* memory;
  };
  static Status no_memory_for(const Span& span) {
    return Status::error(Code::kOutOfMemory, "the system has no memory for " +
                                                 std::to_string(span.end - span.start) +
                                                 " bytes that are still in use")
        .with_path(span.object->path())
        .with_range(span.start, span.end - span.start)
        .with_hint("Keep fewer tensors, or give the process more memory");
  }
  void add_error(const Object* object, Status status) EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    errors_.emplace_back(object, std::move(status));
  }

  MemoryBudget& budget_;
  std::vector<Part> parts_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::atomic<bool> without_memory_{false};
  Mutex mutex_;
  std::vector<std::pair<const Object*, Status>> errors_ GUARDED_BY(mutex_);
};

Status HeldViews::detach(Entries entries, const std::function<bool()>& interrupted) {
  std::vector<std::shared_ptr<View>> held;  // so that no thread drops them meanwhile
  std::vector<Span> spans;
  Entries alive;
  for (Entry& entry : entries) {
    std::shared_ptr<View> view = entry.view.lock();
    if (!view) continue;
    spans.push_back(view->span(entry.object.get()));
    held.push_back(std::move(view));
    alive.push_back(std::move(entry));
  }
  if (alive.empty()) return {};
  merge(&spans);
  const std::uint64_t limit = budget_->limit();
  const std::uint64_t most = part_bytes(limit);
  Detaching detaching(spans, most, *budget_);
  std::vector<std::thread> threads;
  const std::size_t wanted = std::min({detaching.size() / kPartsOfAThread, kMostThreads,
                                       static_cast<std::size_t>(std::max(1, usable_processors())),
                                       static_cast<std::size_t>(limit / most)});
  try {
    const BlockedSignals blocked;
    threads.reserve(wanted);
    while (threads.size() + 1 < wanted) {
      threads.emplace_back([&detaching] { detaching.work([&] { return !detaching.stopped(); }); });
    }
  } catch (const std::system_error&) {  // this thread does it
  } catch (const std::bad_alloc&) {
  }
  Clock::time_point asked = Clock::now();
  detaching.work([&] {
    if (interrupted && Clock::now() >= asked + kBetweenQuestions) {
      asked = Clock::now();
      if (interrupted()) detaching.stop();
    }
    return !detaching.stopped();
  });
  for (std::thread& thread : threads) thread.join();
  if (detaching.stopped()) {
    const MutexLock lock(mutex_);
    std::move(alive.begin(), alive.end(), std::back_inserter(kept_));
    return Status::error(Code::kCancelled, "interrupted");
  }
  // A change before the copy counts as a change during the read.
  Status first;
  const Object* checked = nullptr;
  for (const Entry& entry : alive) {
    if (entry.object.get() == checked) continue;
    checked = entry.object.get();
    Status status = checked->unchanged();
    if (status.ok()) status = detaching.status_of(checked);
    if (status.ok()) continue;
    if (mark_changed(checked) && first.ok()) first = std::move(status);
  }
  return first;
}

}  // namespace streamer
