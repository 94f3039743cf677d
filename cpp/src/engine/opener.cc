#include "engine/opener.h"

#include <algorithm>
#include <array>
#include <climits>
#include <memory>
#include <mutex>
#include <new>
#include <tuple>
#include <utility>

#include "base/memory_map.h"
#include "base/memory_units.h"
#include "base/system.h"
#include "engine/reader_memory.h"
#include "engine/statuses.h"
#include "engine/worker.h"

namespace streamer {

// Which of several tasks on workers have ended. Shared with the tasks, because a caller that is
// interrupted returns before they end.
class Opener::Latch {
 public:
  explicit Latch(std::size_t tasks) : ended_(tasks) {}
  void task_ended(std::size_t task) {
    const MutexLock lock(mutex_);
    ended_[task] = true;
    changed_.notify_all();
  }
  bool has_ended(std::size_t task) {
    const MutexLock lock(mutex_);
    return ended_[task];
  }
  // True if `task` has ended before `deadline`.
  bool wait_until(std::size_t task, Clock::time_point deadline) {
    const MutexLock lock(mutex_);
    while (!ended_[task] && Clock::now() < deadline) changed_.wait_until(mutex_, deadline);
    return ended_[task];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<bool> ended_ GUARDED_BY(mutex_);
};

namespace {

// Additional workers for opening, for each second that a response takes: from some 15 ms on, all
// that a source allows.
constexpr double kOpensPerSecond = 4000;
// Connections for opening take at most their share of the memory, and at most this share of the
// descriptors of the process: a connection takes some.
constexpr std::uint64_t kDescriptorsEach = 16;

int affordable_by_descriptors() {
  return static_cast<int>(std::min<std::uint64_t>(descriptor_limit() / kDescriptorsEach, INT_MAX));
}

// Memory that any thread may drop.
std::shared_ptr<std::byte[]> allocate(const std::shared_ptr<Slabs>& slabs, std::uint64_t bytes) {
  const bool small = bytes <= Slabs::kSlab / 4;
  const std::uint64_t size = small ? round_up(std::max<std::uint64_t>(bytes, 1), 64) : bytes;
  std::byte* const data = small ? slabs->allocate(size) : map_memory(size);
  if (data == nullptr) throw std::bad_alloc();
  return {data, [slabs, small, size](std::byte* memory) {
            if (small) {
              slabs->release(memory, size);
            } else {
              unmap_memory(memory, size);
            }
          }};
}

// The status of `operation`. No exception may leave a worker.
template <typename Operation>
Status or_no_memory(Operation operation) {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    Worker::current().drop_readers();
    return no_memory();
  }
}

}  // namespace

Status Opener::wait(Latch& latch, std::size_t task) {
  while (!latch.wait_until(task, Clock::now() + kInterruptPoll)) {
    if (cancel_.cancelled()) return stream_closed();
    if (Status fatal = scheduler_.fatal(); !fatal.ok()) return fatal;
    if (options_.interrupted && options_.interrupted()) {
      return Status::error(Code::kCancelled, "interrupted");
    }
  }
  return {};
}

// Files that are being opened.
struct Opener::Opening {
  Opening(std::vector<std::string> names, std::vector<std::string> listed, std::uint64_t bytes)
      : paths(std::move(names)),
        versions(std::move(listed)),
        prefix_bytes(bytes),
        latch(paths.size()),
        opened(paths.size()),
        kinds(paths.size()),
        objects(paths.size()) {}
  const std::vector<std::string> paths;
  const std::vector<std::string> versions;
  const std::uint64_t prefix_bytes;
  Latch latch;
  std::vector<OpenedFile> opened;
  std::vector<SourceKind> kinds;  // a file of the hub may be one of the local cache
  std::vector<std::shared_ptr<const Object>> objects;
  // Of each kind, those that wait until the first one has measured the latency.
  std::array<std::vector<std::size_t>, kSourceKinds> waiting;
  std::array<std::once_flag, kSourceKinds> first;
  std::size_t taken = 0;  // under the lock of the opener
};

int Opener::width(SourceKind kind, const Source& source) const {
  const SourceTraits& traits = source.traits();
  const int affordable = std::min(readers_.most(kind), affordable_readers(budget_.limit(), traits));
  const int chosen = options_.concurrency_for(kind);
  const int least = std::min(chosen > 0 ? chosen : traits.initial_concurrency, readers_.most(kind));
  if (chosen > 0 || traits.open_concurrency <= least) return least;
  const int most = std::min({traits.open_concurrency, affordable_by_descriptors(), affordable});
  const double wanted = least + source.proximity().latency * kOpensPerSecond;
  return std::max(least, static_cast<int>(std::min<double>(wanted, most)));
}

Status Opener::open_one(Opening& work, std::size_t index) {
  OpenedFile& file = work.opened[index];
  const std::string& path = work.paths[index];
  auto reader = Worker::current().reader(work.kinds[index]);
  if (!reader.ok()) return reader.status();
  const auto place = (*reader)->local_copy(path, /*directory=*/false);
  if (!place.ok()) return place.status();
  if (*place != path) {
    work.kinds[index] = SourceKind::kFile;
    reader = Worker::current().reader(SourceKind::kFile);
    if (!reader.ok()) return reader.status();
  }
  auto prefix = allocate(slabs_, work.prefix_bytes);
  const std::string version = work.versions.empty() ? "" : work.versions[index];
  auto opened = (*reader)->open_listed(*place, version, {prefix.get(), work.prefix_bytes});
  if (!opened.ok()) return opened.status();
  file.prefix = Bytes(std::move(prefix), opened->prefix_size);
  file.size = opened->object->size();
  file.version = opened->object->version();
  work.objects[index] = std::move(opened->object);
  return {};
}

void Opener::add_open(const std::shared_ptr<Opening>& work, std::size_t index) {
  const SourceKind kind = work->kinds[index];
  auto source = files_.source(kind);
  if (!source.ok()) return;  // it existed when the work began
  scheduler_.add_task(
      [this, work, index, kind] {
        OpenedFile& file = work->opened[index];
        file.status = or_no_memory([&] { return open_one(*work, index); });
        file.status = std::move(file.status).with_path(work->paths[index]);
        const int number = static_cast<int>(kind);
        std::call_once(work->first[number], [&] {
          for (const std::size_t next : work->waiting[number]) add_open(work, next);
        });
        work->latch.task_ended(index);
      },
      width(kind, **source));
}

Result<std::uint32_t> Opener::begin_open(const std::vector<std::string>& paths,
                                         std::uint64_t prefix_bytes,
                                         const std::vector<std::string>& versions) {
  if (!versions.empty() && versions.size() != paths.size()) {
    return Status::error(Code::kInvalid, "the paths and the versions differ in number");
  }
  auto work = std::make_shared<Opening>(paths, versions, prefix_bytes);
  std::vector<std::size_t> first;
  std::array<int, kSourceKinds> chosen{};
  for (std::size_t i = 0; i < paths.size(); ++i) {
    auto kind = source_kind_of(paths[i]);
    if (!kind.ok()) return kind.status();
    auto source = files_.source(*kind);
    if (!source.ok()) return source.status().with_path(paths[i]);
    work->kinds[i] = *kind;
    const int number = static_cast<int>(*kind);
    // Until something was opened, the latency is not known.
    const bool pilot = (*source)->traits().open_concurrency == 0 ||
                       (*source)->proximity().latency > 0 ||
                       chosen[number]++ < width(*kind, **source);
    (pilot ? first : work->waiting[number]).push_back(i);
  }
  const std::uint32_t number = files_.reserve(paths.size());
  if (paths.empty()) return number;
  {
    const MutexLock lock(mutex_);
    openings_.emplace(number, work);
  }
  for (const std::size_t index : first) add_open(work, index);
  return number;
}

Result<std::vector<OpenedFile>> Opener::opened(std::uint32_t first) {
  std::shared_ptr<Opening> work;
  std::uint32_t begin = 0;
  {
    const MutexLock lock(mutex_);
    auto next = openings_.upper_bound(first);
    if (next != openings_.begin()) std::tie(begin, work) = *std::prev(next);
    if (!work || begin + work->taken != first) {
      return Status::error(Code::kInvalid, "that file is not the next one to be opened");
    }
  }
  const std::size_t at = first - begin;
  if (Status status = wait(work->latch, at); !status.ok()) return status;
  const MutexLock lock(mutex_);
  std::vector<OpenedFile> files;
  std::size_t i = at;
  for (; i < work->paths.size() && work->latch.has_ended(i); ++i) {
    OpenedFile& file = work->opened[i];
    file.index = begin + static_cast<std::uint32_t>(i);
    files_.set(file.index,
               std::make_shared<FileState>(FileState{work->paths[i], work->kinds[i],
                                                     std::move(work->objects[i]), file.status, 0}));
    files.push_back(std::move(file));
  }
  work->taken = i;
  if (i == work->paths.size()) openings_.erase(begin);
  return files;
}

// Ranges that are being read. The tasks read into memory that they share, because a caller that is
// interrupted may free its own at once.
struct Opener::Reading {
  explicit Reading(std::size_t ranges) : latch(ranges), bytes(ranges), statuses(ranges) {}
  Latch latch;
  std::vector<Bytes> bytes;
  std::vector<Status> statuses;
  std::size_t taken = 0;  // under the lock of the opener
};

Result<std::uint64_t> Opener::begin_read(const std::vector<FileRanges>& wanted) {
  struct Item {
    Range range;
    std::shared_ptr<const FileState> file;
    int width;
  };
  std::vector<Item> items;
  for (const FileRanges& entry : wanted) {
    auto file = files_.at(entry.file);
    if (file == nullptr) return Status::error(Code::kInvalid, "no such file was opened");
    if (!file->status.ok()) return file->status;
    auto source = files_.source(file->kind);
    if (!source.ok()) return source.status();
    for (const Range& range : entry.ranges) {
      if (range.strides) {
        return Status::error(Code::kInvalid, "ranges with strides are to be submitted");
      }
      items.push_back({range, file, width(file->kind, **source)});
    }
  }
  auto work = std::make_shared<Reading>(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    scheduler_.add_task(
        [work, i, range = items[i].range, state = items[i].file, slabs = slabs_] {
          const FileState& file = *state;
          Status status = or_no_memory([&]() -> Status {
            if (range.size == 0) return {};
            auto bytes = allocate(slabs, range.size);
            auto reader = Worker::current().reader(file.kind);
            if (!reader.ok()) return reader.status();
            ReadReport report;
            const iovec segment{bytes.get(), range.size};
            work->bytes[i] = Bytes(std::move(bytes), range.size);
            return (*reader)->read(*file.object, range.offset, {&segment, 1}, &report);
          });
          work->statuses[i] =
              std::move(status).with_path(file.path).with_range(range.offset, range.size);
          work->latch.task_ended(i);
        },
        items[i].width);
  }
  const MutexLock lock(mutex_);
  if (!items.empty()) readings_.emplace(next_reading_, std::move(work));
  return next_reading_++;
}

Result<Bytes> Opener::next_read(std::uint64_t reading) {
  std::shared_ptr<Reading> work;
  std::size_t at = 0;
  {
    const MutexLock lock(mutex_);
    auto found = readings_.find(reading);
    if (found == readings_.end()) {
      return Status::error(Code::kInvalid, "all of its ranges were taken");
    }
    work = found->second;
    at = work->taken++;
    if (work->taken == work->bytes.size()) readings_.erase(found);
  }
  if (Status status = wait(work->latch, at); !status.ok()) return status;
  if (Status status = work->statuses[at]; !status.ok()) {
    const MutexLock lock(mutex_);
    readings_.erase(reading);
    return status;
  }
  return std::move(work->bytes[at]);
}

}  // namespace streamer
