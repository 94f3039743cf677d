// The values of the C++ API: kinds of storage, devices, options, ranges, results, statistics.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "streamer/export.h"
#include "streamer/status.h"

namespace streamer {

// Version of the library: "MAJOR.MINOR.PATCH".
STREAMER_EXPORT const char* version() noexcept;

enum class SourceKind : int { kFile = 0, kS3, kGcs, kAzure, kHttp, kHub };
inline constexpr int kSourceKinds = 6;
// "file", "s3", ...
STREAMER_EXPORT const char* source_kind_name(SourceKind kind) noexcept;

// The kind that serves `path`, by its scheme: no scheme is a file. kInvalid for an unknown scheme.
STREAMER_EXPORT Result<SourceKind> source_kind_of(const std::string& path);

// The key of an object, which patterns of names are compared with: the text behind the bucket, host
// or repository, decoded if the path is a URL. Of a file: its path.
STREAMER_EXPORT std::string object_key(const std::string& path);

// Properties of the paths of a scheme, beyond the kind of storage.
struct PathTraits {
  bool url = false;            // percent-encoded; may have a query, which may grant access
  bool lists_digests = false;  // a list contains ListedObject::sha256 of large files
  bool regions = false;        // a bucket belongs to a region, which the signature names
};
STREAMER_EXPORT PathTraits path_traits(const std::string& path);

// `path` at the version that a list of it returned, if the storage keeps versions of whole
// directories; else `path`.
STREAMER_EXPORT std::string at_version(const std::string& path, const std::string& version);

// Ways to read files. Their names are "auto", "mapped", "buffered" and "direct".
enum class FsStrategy : int {
  kAuto = 0,  // bytes in the page cache as views; the rest as it suits the machine
  kMapped,    // a private mapping, populated ahead; other reads go through the page cache
  kBuffered,  // through the page cache
  kDirect,    // past the page cache (O_DIRECT), except for bytes in it
};
STREAMER_EXPORT const char* fs_strategy_name(FsStrategy strategy) noexcept;

struct FsPreference {
  FsStrategy strategy = FsStrategy::kAuto;
  bool only = false;  // a file that can't be read by `strategy` is an error: kUnsupported
};
// The preference that `text` expresses: names of strategies, separated by commas, the preferred one
// first; `only` unless "auto" or "buffered" is among them. kInvalid for an unknown name. The names
// of other implementations are accepted, which put the system call first ("io_uring_direct").
STREAMER_EXPORT Result<FsPreference> parse_fs_strategy(std::string_view text);

// The most bytes that the engine holds at once.
class MemoryLimit {
 public:
  enum class Kind {
    kAutomatic,  // bytes that keep the sources busy, at least the largest block
    kUnlimited,  // reading never waits for the consumer
    kLeast,      // the largest block
    kBytes,      // a number; a larger block is an error: kMemoryLimit
  };
  constexpr MemoryLimit() = default;  // automatic
  static constexpr MemoryLimit unlimited() { return {Kind::kUnlimited, UINT64_MAX}; }
  static constexpr MemoryLimit least() { return {Kind::kLeast, 0}; }
  static constexpr MemoryLimit bytes(std::uint64_t bytes) { return {Kind::kBytes, bytes}; }
  // From a value of RUNAI_STREAMER_MEMORY_LIMIT: -1 unlimited, 0 least, else bytes. kInvalid for
  // other negative numbers.
  STREAMER_EXPORT static Result<MemoryLimit> from_setting(std::int64_t value);

  constexpr Kind kind() const { return kind_; }
  // The limit before any block is known: UINT64_MAX for none, 0 if the engine raises it.
  constexpr std::uint64_t initial() const { return bytes_; }
  // The most bytes that one block may have.
  constexpr std::uint64_t largest_block() const {
    return kind_ == Kind::kBytes ? bytes_ : UINT64_MAX;
  }
  // The value that from_setting() takes; none for an automatic limit.
  constexpr std::optional<std::int64_t> setting() const {
    switch (kind_) {
      case Kind::kUnlimited: return -1;
      case Kind::kLeast: return 0;
      case Kind::kBytes: return static_cast<std::int64_t>(bytes_);
      case Kind::kAutomatic: break;
    }
    return std::nullopt;
  }
  // The share of one of `processes` that divide the limit. Only a limit in bytes is divided.
  constexpr MemoryLimit share(std::uint64_t processes) const {
    if (kind_ != Kind::kBytes || processes == 0) return *this;
    return bytes(bytes_ < processes ? 1 : bytes_ / processes);
  }
  bool operator==(const MemoryLimit&) const = default;

 private:
  constexpr MemoryLimit(Kind kind, std::uint64_t bytes) : kind_(kind), bytes_(bytes) {}
  Kind kind_ = Kind::kAutomatic;
  std::uint64_t bytes_ = 0;
};

enum class DeviceType : int { kHost = 0, kCuda = 1 };
struct Device {
  DeviceType type = DeviceType::kHost;
  int ordinal = 0;  // of the device, as the driver counts
  // The caller's stream on the device (CUstream; null: the default one) whose work may still use
  // the destinations of a submission: copies to them start after the work that it holds when they
  // are submitted.
  void* stream = nullptr;
};

// An identity for one cloud, as names and values that its protocol understands (documented with
// each protocol in docs/). `identity` describes it without secrets, for error messages.
struct Credentials {
  std::map<std::string, std::string> values;
  std::int64_t expires_at = 0;  // seconds since the epoch, 0: never
  std::string identity;
};
struct CredentialsRequest {
  SourceKind kind;
  std::string container;  // bucket, container or host
  bool refresh;           // the last identity was refused by the server or is about to expire
};
// Called from worker threads, never concurrently for one stream. If it returns empty `values`, the
// protocol finds an identity (environment, files, metadata services). An exception is an error:
// kCredentials.
using CredentialsProvider = std::function<Result<Credentials>(const CredentialsRequest&)>;

// True if the settings of the process hold a key or a signature for `container`, as a
// CredentialsRequest names it, so that a provider need not look for another identity. Thread-safe.
STREAMER_EXPORT bool settings_sign(SourceKind kind, const std::string& container);

// The endpoint, the proxy and the identity of requests for an object.
struct Access {
  std::string endpoint;         // scheme, host and port of the service
  std::string endpoint_from;    // the setting or the rule that it comes from
  std::string host;             // of requests for the object; with the port if the URL has one
  std::string region;           // that requests are signed for; empty: none
  std::string container;        // bucket, container or repository
  std::string key;              // of the object or the directory, not encoded
  std::string identity;         // of requests, never a secret; empty: none
  std::int64_t expires_at = 0;  // of the identity, in seconds since the epoch; 0: never, or unknown
  Status credentials;           // not ok: the reason if there is no identity
  std::string proxy;            // scheme, host and port; empty: none
  std::string proxy_from;       // the variable that names it
  std::string ca_file;          // PEM file that servers are verified with; empty: the directory
  std::string ca_directory;
};

// A request to storage that failed and will be repeated.
struct Retry {
  std::string path;  // without secrets
  int attempt = 0;   // that failed, from 1
  double pause = 0;  // seconds until the next one
  Status reason;     // of the failure, with the endpoint and the identity
};

// Every option of a stream. Defaults come from the environment: docs/reference/environment.md.
struct STREAMER_EXPORT Options {
  int concurrency = 0;              // threads and connections; 0: adaptive
  int object_concurrency = 0;       // the same for all but files; 0: as `concurrency`
  std::uint64_t chunk_bytes = 0;    // bytes of one read; 0: by kind of source
  MemoryLimit memory_limit;         // of everything that the engine holds
  FsPreference fs_strategy;         // for reads of files
  CredentialsProvider credentials;  // may be empty
  // Called several times a second while a call waits. If it returns true, that call returns
  // kCancelled.
  std::function<bool()> interrupted;          // may be empty
  std::map<std::string, std::string> source;  // overrides of settings by name, for sources
  // Called for every request that will be repeated, on the thread that made it. Must not block.
  std::function<void(const Retry&)> retried;  // may be empty

  int concurrency_for(SourceKind kind) const {
    return kind != SourceKind::kFile && object_concurrency > 0 ? object_concurrency : concurrency;
  }

  // The settings of the process environment as it is now. kInvalid names the variable, its value
  // and the accepted values.
  static Result<Options> from_environment();
};

// Bytes of a file. Copies share them.
class Bytes {
 public:
  Bytes() = default;
  Bytes(std::shared_ptr<const std::byte[]> memory, std::size_t size)
      : memory_(std::move(memory)), size_(size) {}
  const std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::shared_ptr<const std::byte[]> memory_;
  std::size_t size_ = 0;
};

struct OpenedFile {
  std::uint32_t index = 0;  // of the file in the stream, for FileRanges::file
  std::uint64_t size = 0;   // of the object, in bytes
  std::string version;      // ETag, generation or modification time: pins later reads
  Bytes prefix;             // its first bytes, as many as were asked for and exist
  Status status;            // not ok: it can't be read, and neither can its ranges
};

// Bytes that do not follow one another: `run` of them at each of the places that nested steps
// reach. The places do not overlap, and ascend.
struct Strides {
  struct Level {
    std::uint64_t count = 0;
    std::uint64_t stride = 0;  // bytes from one place to the next
  };
  std::uint64_t run = 0;
  std::vector<Level> levels;  // the outermost first
};

// `size` bytes at `offset` of a file; with `strides`, `size` bytes at the places that these
// describe, counted from `offset`, which are packed in memory: `size` is the run times all counts.
// If `destination` is null the engine finds the memory, aligned to `alignment` (a power of two, at
// most 64). A destination must hold `size` bytes, stay valid until the range was delivered or the
// stream is destroyed, and be written by nothing else.
struct Range {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  void* destination = nullptr;
  std::uint32_t alignment = 1;
  std::shared_ptr<const Strides> strides = {};
};

// The kind of memory of a range without a destination. Views are pages of a file in the page
// cache, which cost nothing; only files have them.
enum class Ownership : int {
  // Memory of its holder. It may be a view at first: see Stream::detach_views(). Most views are
  // dropped before they are detached, and cost nothing.
  kOwned = 0,
  // A view for as long as it is held, also after the stream. A change of the file in place changes
  // it, and a truncation after the stream ends processes that touch it (SIGBUS).
  kShared,
  // Never a view: for consumers that keep everything, and for memory that must not vanish for a
  // moment.
  kCopied,
};

struct FileRanges {
  std::uint32_t file = 0;  // OpenedFile::index: counted over all calls of open(), from 0
  std::vector<Range> ranges;
  // May own the destinations: it is dropped, by any thread, when nothing writes to them any more.
  std::shared_ptr<void> keep = {};
  Ownership ownership = Ownership::kOwned;
};

// Consecutive ranges of one file that are ready together.
struct Ready {
  std::uint64_t submission = 0;  // the result of submit()
  std::uint32_t entry = 0;       // index into the submission's FileRanges
  std::uint32_t file = 0;
  std::uint32_t first_range = 0;  // index into the entry's ranges
  std::uint32_t count = 0;
  std::byte* data = nullptr;  // engine memory that holds all of them; null: the caller's
  std::uint64_t data_size = 0;
  bool view = false;                     // `data` is the file's own pages: see Ownership
  std::vector<std::uint64_t> positions;  // of each range in `data`; empty: the caller's
  std::shared_ptr<void> memory;  // keeps `data`, also after the stream; any thread may drop it
  Status status;                 // not ok: none of these ranges can be used
};

struct Batch {
  std::vector<Ready> ready;
  bool finished = false;  // everything submitted so far has been delivered
};

struct Stats {
  double seconds = 0;             // since the first submission, until the last delivery
  std::uint64_t bytes = 0;        // delivered
  std::uint64_t bytes_asked = 0;  // of the ranges that were submitted
  std::uint64_t bytes_read = 0;   // from storage, with gaps between strides that cost less than a
                                  // read of their own
  std::uint64_t bytes_by_source[kSourceKinds] = {};  // delivered, by SourceKind
  std::uint64_t bytes_by_kind[kSourceKinds] = {};    // deprecated: the same as `bytes_by_source`
  std::uint64_t requests = 0;                        // reads issued to storage
  std::uint64_t retries = 0;
  std::uint64_t stragglers = 0;      // slow reads that were aborted and continued elsewhere
  std::uint64_t hedges = 0;          // deprecated: the same as `stragglers`
  double wait_storage_seconds = 0;   // the consumer waited for bytes
  double wait_consumer_seconds = 0;  // reading paused: ready bytes filled the memory limit
  double wait_memory_seconds = 0;    // reading paused: bytes in flight filled the memory limit
  std::uint64_t peak_memory = 0;     // most bytes that the engine held at once
  std::uint64_t memory_limit = 0;    // in force; UINT64_MAX: none
  int threads = 0;                   // workers started
  int concurrency = 0;               // reads allowed at once, last
  std::map<std::string, std::uint64_t> bytes_by_strategy;  // "mapped", "buffered", "http"...
  // The bound of the load: consumer; window (the memory limit); of storage over a network link
  // (more connections brought no more), connections (no more were allowed) or processors; else
  // storage; none if nothing waited for a tenth of the time.
  std::string bound;
  std::map<std::string, std::string> notes;  // e.g. the reason against a strategy
};

struct ListedObject {
  std::string path;  // as open() takes it
  std::uint64_t size = 0;
  std::string version;  // for Stream::open(): it must be this; empty: not in the list
  std::string sha256;   // of its content, in hexadecimal digits (hf://); empty: not in the list
};

}  // namespace streamer
