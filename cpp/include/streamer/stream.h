// The C++ API: byte ranges of files and objects, streamed concurrently into memory.
//
//   auto stream = streamer::Stream::create(*streamer::Options::from_environment());
//   auto files = (*stream)->open({"/models/a.safetensors", "s3://bucket/b.safetensors"});
//   (*stream)->submit({{.file = 0, .ranges = {{.offset = 128, .size = 4096}}}});
//   for (;;) {
//     auto batch = (*stream)->next();
//     ...
//   }
//
// Bytes become ready in the order in which they were submitted. All memory that the engine holds
// counts against Options::memory_limit.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "streamer/types.h"

namespace streamer {

// One load. Thread-safe, except that one thread at a time may call next(). Other threads may open
// files, submit, read or cancel meanwhile. If the system has no memory for a call, it returns
// kOutOfMemory, or throws std::bad_alloc if there is not enough for a status; next() then ends the
// stream.
class STREAMER_EXPORT Stream {
 public:
  // kInvalid if an option is out of its range.
  static Result<std::unique_ptr<Stream>> create(Options options);
  // Cancels the reads in flight, detaches views, and joins the workers. If the storage blocks a
  // worker (a file server hangs), waits for it only while it writes to a destination without
  // FileRanges::keep. Otherwise leaves it behind after half a second, with the memory that it
  // writes to; it ends when the storage responds.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Opens `paths` concurrently and reads up to `prefix_bytes` from the start of each. A file that
  // can't be opened has an error as its OpenedFile::status. `versions` are those of ListedObject,
  // one for each path, or empty: a path that is at another version by now is kChanged.
  Result<std::vector<OpenedFile>> open(const std::vector<std::string>& paths,
                                       std::uint64_t prefix_bytes = 0,
                                       const std::vector<std::string>& versions = {});
  // open() in steps. open_begin() returns the index of the first file. opened() waits for the file
  // `first`, and returns it and those behind it that are open by now, too; each file once, in the
  // order of the paths, and kInvalid otherwise.
  Result<std::uint32_t> open_begin(const std::vector<std::string>& paths,
                                   std::uint64_t prefix_bytes = 0,
                                   const std::vector<std::string>& versions = {});
  Result<std::vector<OpenedFile>> opened(std::uint32_t first);
  // Reads ranges of opened files into their destinations, concurrently, now. kInvalid for ranges
  // with strides.
  Status read(const std::vector<FileRanges>& wanted);
  // read() in steps; destinations are ignored. read_next() waits for the next range of the reading
  // that read_begin() returned, and returns its bytes. kInvalid behind the last one or one that
  // failed.
  Result<std::uint64_t> read_begin(const std::vector<FileRanges>& wanted);
  Result<Bytes> read_next(std::uint64_t reading);
  // Adds work. Returns its number: 0, 1, ... Zero-size ranges are delivered like others.
  Result<std::uint64_t> submit(std::vector<FileRanges> entries, Device device = {});
  // Waits until ranges are ready, and returns them, at most some MiB at a time unless one range is
  // larger. If the timeout passes, the batch is empty and not finished. A failed range is delivered
  // with its status; the stream continues with the others.
  Result<Batch> next(std::chrono::milliseconds timeout = std::chrono::milliseconds::max());
  // Makes one call of next() return without waiting: the one that waits, or else the next one. It
  // returns the ranges that are ready, perhaps none.
  void wake() noexcept;
  // Puts private memory in the place of the views of Ownership::kOwned that are still held: at the
  // same addresses, while other threads may use them. Later changes of the files do not affect
  // them. next() detaches the views of a file when the consumer returns from the first batch of
  // another file, and all views before it returns a batch that is finished. The destructor detaches
  // them, too, but can't return the error. kChanged names a file that was changed before its views
  // were detached: their content is unknown. If a thread touched pages that a truncation removed,
  // it got zeros (RUNAI_STREAMER_HANDLE_SIGBUS), and the next call of this function or next()
  // returns kChanged. Any thread, also after cancel(). Takes as long as a copy of the held views.
  Status detach_views();
  // Not ok if a file was changed since open(). next() checks this. Check again before you use a
  // view (Ready::view) that was delivered earlier.
  Status unchanged(std::uint32_t file) const;
  // Makes every waiting call return kCancelled, now and later.
  void cancel() noexcept;
  Stats stats() const;

 private:
  class Impl;
  explicit Stream(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// Objects whose path starts with the directory `prefix`, sorted by path. Directories are left out.
STREAMER_EXPORT Result<std::vector<ListedObject>> list(const std::string& prefix, bool recursive,
                                                       const Options& options);

}  // namespace streamer
