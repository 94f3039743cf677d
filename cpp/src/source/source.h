// The origin of bytes. A Source is one kind of storage as one stream sees it; each worker thread
// owns a Reader of it, which is its connection.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/cancel.h"
#include "base/memory_budget.h"
#include "streamer/types.h"

namespace streamer {

// The reads that a source wants to have in flight now. It changes while the source is read.
struct WantedReads {
  std::atomic<int> number{1};
  std::atomic<std::uint64_t> most_bytes{std::numeric_limits<std::uint64_t>::max()};  // of one
};

// The properties that the engine plans with.
struct SourceTraits {
  bool remote = false;                 // requests over a network: adaptive concurrency
  std::uint64_t chunk_bytes = 0;       // preferred size of one read
  std::uint64_t max_chunk_bytes = 0;   // to which reads may grow; 0: they do not
  std::uint64_t view_chunk_bytes = 0;  // of one prefault(): parts end at multiples of it
  std::uint64_t min_chunk_bytes = 0;   // the least that a setting may choose
  std::uint64_t window_bytes = 0;      // memory that keeps it busy, if no limit is set
  // For a source that measures itself. Null: the engine finds the number, between the following
  // two.
  std::shared_ptr<const WantedReads> reads;
  int initial_concurrency = 0;  // start of adaptive concurrency
  int max_concurrency = 0;      // its maximum
  // The number of times that the storage has refused requests because of their rate; counted while
  // reads are in flight. Null: it never does.
  std::shared_ptr<const std::atomic<std::uint64_t>> refusals;
  double target_rate = 0;          // bytes per second that the user expects; 0: not set
  int open_concurrency = 0;        // objects opened at once if storage is far; 0: as reads
  std::uint64_t reader_bytes = 0;  // most memory that each reader holds (transport buffers)
  // Of these, the bytes that a reader counts itself, by MemoryBudget::take_for_reader(), once it
  // holds them.
  std::uint64_t counted_by_reader = 0;
  bool stragglers = false;  // slow reads may be aborted; see ReadProgress
  bool skips_gaps = false;  // a read passes over unwanted bytes, at no cost
};

// The mapping behind views of an object. It outlives the object for as long as a view is held.
class ViewMapping {
 public:
  virtual ~ViewMapping() = default;
  // Takes back memory of Object::acquire_view(): it will not be touched any more. By any thread,
  // also of a forked child.
  virtual void release_view(std::uint64_t offset, std::uint64_t size) = 0;
};

// An object that was opened: immutable, shared by all threads.
class Object {
 public:
  Object(std::string path, std::uint64_t size, std::string version)
      : path_(std::move(path)), size_(size), version_(std::move(version)) {}
  virtual ~Object() = default;
  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  const std::string& version() const { return version_; }

  // False if view() is null; cheap. view() may be null although this is true.
  virtual bool may_have_view() const { return false; }
  // The object's bytes in the address space, aligned to 64, or null if they can't be there.
  // Only addresses that Reader::prefault() made present may be touched.
  virtual std::byte* view() const { return nullptr; }
  // True if [offset, offset + size) is better handed out as a part of the view than read: then
  // ViewMapping::release_view() follows. Asked once per block, when its turn comes; cheap.
  virtual bool acquire_view(std::uint64_t /*offset*/, std::uint64_t /*size*/) const {
    return view() != nullptr;
  }
  // The owner of view(); null if the object itself keeps it.
  virtual std::shared_ptr<ViewMapping> mapping() const { return nullptr; }
  // Puts memory of the process, of the same content, in the place of a part of the view. From then
  // on a change of the object does not change the part, and can't take it away. Offset and size are
  // whole pages; the last page may reach behind the end. `memory` is a fresh mapping of that size,
  // which this call uses up. Other threads may read, write and drop parts of the view meanwhile,
  // but for two calls of overlapping parts. If it fails, some of the content may be lost.
  virtual Status detach_view(std::uint64_t offset, std::uint64_t size, std::byte* memory) const;
  // A descriptor for O_DIRECT, for devices that read files by themselves; -1: none.
  virtual int device_fd() const { return -1; }
  // Announces that ranges will be read once, into memory that is not the process's. They need not
  // stay in the page cache.
  virtual void advise_read_once() const {}
  // Not ok if the object was changed since it was opened; cheap, called once per delivered batch.
  virtual Status unchanged() const { return {}; }

 private:
  std::string path_;
  std::uint64_t size_;
  std::string version_;
};

// The distance to storage.
struct Proximity {
  double latency = 0;  // seconds from a request to the first byte, the least so far; 0: unknown
};

struct Opened {
  std::shared_ptr<const Object> object;
  std::uint64_t prefix_size = 0;  // bytes written to the prefix buffer
};

// The messages between a read in flight and its watcher.
struct ReadProgress {
  std::atomic<std::uint64_t> received{0};  // the first so many bytes are there
  std::atomic<bool> fresh{false};          // over a connection that was opened for it
  std::atomic<bool> pausing{false};        // between two attempts
  std::atomic<bool> aborted{false};        // end soon, with the bytes that are there
};

// The report of a read.
struct ReadReport {
  const char* strategy = "";
  std::uint64_t retries = 0;
  double seconds = 0;                // that requests took
  double waited = 0;                 // of them, until responses began
  ReadProgress* progress = nullptr;  // set by the caller; null: not watched
  std::uint64_t missing = 0;         // bytes at the end that an aborted read did not get
  std::uint64_t skipped = 0;         // bytes of gaps that were not read
};

using ListCallback = std::function<void(ListedObject object)>;

// One connection. Used by one thread; blocking calls return soon after the token is cancelled.
class Reader {
 public:
  virtual ~Reader() = default;
  // Opens `path` and reads its first bytes into `prefix`, in one request if possible.
  virtual Result<Opened> open(const std::string& path, std::span<std::byte> prefix) = 0;
  // The same for an object of a list, with ListedObject::version: kChanged if the object has
  // another version by now. An empty version matches any.
  virtual Result<Opened> open_listed(const std::string& path, const std::string& /*version*/,
                                     std::span<std::byte> prefix) {
    return open(path, prefix);
  }
  // The place that `path` is read from or, as a directory, listed at: a file or directory with a
  // copy of it (hf:// paths), else `path` itself. All copies of a source are of one snapshot. May
  // ask the storage.
  virtual Result<std::string> local_copy(const std::string& path, bool /*directory*/) {
    return path;
  }
  // Fills `segments` with consecutive bytes of `object` from `offset`: all of them, or those before
  // it was aborted, or an error that carries path and range. Segments without an address are gaps.
  virtual Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
                      ReadReport* report) = 0;
  // Makes [offset, offset + size) of object.view() present in memory.
  virtual Status prefault(const Object& object, std::uint64_t offset, std::uint64_t size,
                          ReadReport* report);
  // The way to `path`, of an object or a directory. kInvalid if nothing is in between.
  virtual Result<Access> access(const std::string& path);
  // Calls `found` for every object below the directory `prefix`, in no order.
  virtual Status list(const std::string& prefix, bool recursive, const ListCallback& found) = 0;
};

class Source {
 public:
  virtual ~Source() = default;
  virtual const SourceTraits& traits() const = 0;
  virtual Result<std::unique_ptr<Reader>> make_reader() = 0;  // thread-safe
  // As seen by the objects opened so far.
  virtual Proximity proximity() const { return {}; }
  // Adds notes for the statistics, by topic. Thread-safe.
  virtual void describe(std::map<std::string, std::string>* /*notes*/) const {}
};

// The arguments of a source. All outlive its readers.
struct SourceContext {
  const Options& options;
  const CancelToken& cancel;
  MemoryBudget* budget = nullptr;  // of buffers beside SourceTraits::reader_bytes; null: no limit
};

// kUnsupported if this build leaves the kind out.
Result<std::unique_ptr<Source>> make_source(SourceKind kind, const SourceContext& context);

}  // namespace streamer
